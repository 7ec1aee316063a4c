#include "transfer/ucx/library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <string>

namespace baton::transfer::ucx {
namespace {

struct Setting {
  const char* name;
  const char* value;
};
// Ours, whatever the shell says. UCX_NET_DEVICES, UCX_TCP_PORT_RANGE and those of InfiniBand stay the
// operator's.
constexpr Setting kSettings[] = {
    {"UCX_HANDLE_ERRORS", "none"},        // no signal handlers
    {"UCX_ERROR_SIGNALS", ""},            //
    {"UCX_MEM_EVENTS", "n"},              // no hooks of mmap: the one registered region outlives its use
    {"UCX_LOG_FILE", "stderr"},           // its default is stdout
    {"UCX_LOG_LEVEL", "error"},           //
    {"UCX_WARN_UNUSED_ENV_VARS", "n"},    //
    {"UCX_PROTO_ENABLE", "n"},            // 1.13's second protocol layer aborts
    {"UCX_MM_ERROR_HANDLING", "y"},       // else shared memory is not used with error handling
    {"UCX_KEEPALIVE_INTERVAL", "200ms"},  // 20 s by default
    {"UCX_TCP_KEEPIDLE", "1s"},           //
    {"UCX_TCP_KEEPINTVL", "1s"},          //
    {"UCX_TCP_TX_SEG_SIZE", "128K"},      // 8 KiB by default: a third of the speed
    {"UCX_TCP_RX_SEG_SIZE", "256K"},      //
};

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

Result<Library> load() {
  for (const Setting& setting : kSettings) setenv(setting.name, setting.value, 1);
  void* const handle = dlopen("libucp.so.0", RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr)
    return fail(Code::kUnavailable, fmt::format("UCX: {}, expected the package libucx0", dlerror()));
  Library all;
  const bool complete =
      find(handle, "ucp_config_read", all.config_read) &&
      find(handle, "ucp_config_modify", all.config_modify) &&
      find(handle, "ucp_config_release", all.config_release) &&
      find(handle, "ucp_init_version", all.init_version) && find(handle, "ucp_cleanup", all.cleanup) &&
      find(handle, "ucp_mem_map", all.mem_map) && find(handle, "ucp_mem_unmap", all.mem_unmap) &&
      find(handle, "ucp_rkey_pack", all.rkey_pack) &&
      find(handle, "ucp_rkey_buffer_release", all.rkey_buffer_release) &&
      find(handle, "ucp_rkey_destroy", all.rkey_destroy) &&
      find(handle, "ucp_worker_create", all.worker_create) &&
      find(handle, "ucp_worker_destroy", all.worker_destroy) &&
      find(handle, "ucp_worker_get_address", all.worker_get_address) &&
      find(handle, "ucp_worker_release_address", all.worker_release_address) &&
      find(handle, "ucp_worker_get_efd", all.worker_get_efd) &&
      find(handle, "ucp_worker_progress", all.worker_progress) &&
      find(handle, "ucp_worker_arm", all.worker_arm) && find(handle, "ucp_ep_create", all.ep_create) &&
      find(handle, "ucp_ep_rkey_unpack", all.ep_rkey_unpack) &&
      find(handle, "ucp_ep_close_nbx", all.ep_close_nbx) &&
      find(handle, "ucp_ep_flush_nbx", all.ep_flush_nbx) && find(handle, "ucp_put_nbx", all.put_nbx) &&
      find(handle, "ucp_am_send_nbx", all.am_send_nbx) &&
      find(handle, "ucp_worker_set_am_recv_handler", all.worker_set_am_recv_handler) &&
      find(handle, "ucp_request_check_status", all.request_check_status) &&
      find(handle, "ucp_request_free", all.request_free) &&
      find(handle, "ucs_status_string", all.status_string);
  if (!complete) return fail(Code::kUnavailable, fmt::format("UCX: {}, expected version 1.13", dlerror()));
  return all;
}

}  // namespace

Result<const Library*> load_library() {
  static const Result<Library> library = load();
  if (!library) return Failure(library.error());
  return &*library;
}

}  // namespace baton::transfer::ucx
