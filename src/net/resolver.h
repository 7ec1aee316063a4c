// Resolves host names for a thread that must not wait. getaddrinfo may take half a minute where a name server
// is silent, and cannot be interrupted: each name is looked up in a thread of its own, so that a name that
// hangs delays no other. Owned by one thread; who asks sets the deadline and forgets answers that come later.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "net/address.h"
#include "net/fd.h"

namespace baton::net {

inline constexpr size_t kLookupsMax = 16;  // names that are being looked up at a time

class Resolver {
 public:
  // Blocks; called on threads of the resolver, several at a time.
  using Lookup = std::function<Result<std::vector<Endpoint>>(const Address&)>;
  struct Answer {
    std::string host;
    Result<std::vector<Endpoint>> endpoints;  // at least one, with port 0
  };

  // `wake`: an eventfd that is written whenever an answer waits.
  explicit Resolver(Fd wake, Lookup lookup = resolve);
  // Does not wait: lookups that hang end in their own time, and nobody hears of them.
  ~Resolver();
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  // One answer follows for a host, however often it is asked for until then. kExhausted while kLookupsMax
  // other names are being looked up.
  Result<void> ask(const std::string& host);
  std::vector<Answer> take_answers();

 private:
  struct Shared;

  std::shared_ptr<Shared> shared_;  // with the threads, which may outlive this
  std::set<std::string> asked_;
};

}  // namespace baton::net
