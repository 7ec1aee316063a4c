// For tests of any room: an instance that can hand over, as /v1/models would describe it.
#pragma once

#include "api/identity.h"

namespace baton::api {

// Two of them differ in their incarnation alone, and so fit each other.
inline InstanceIdentity identity_of(Role role) {
  return {.protocol = 1,
          .version = "0",
          .role = role,
          .hands_over = true,
          .incarnation = random_id<Incarnation>(),
          .engine_id = "e",
          .fingerprint = "f",
          .kv_dtype = "bfloat16",
          .block_size = 16,
          .max_model_len = 4096,
          .tensor_parallel_size = 1,
          .kv_port = 1};
}

}  // namespace baton::api
