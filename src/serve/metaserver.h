// D, layer-wise order: tells the proxy's metaserver that the blocks of a prompt are reserved, so that it
// sends a prefill instance. io thread.
//
// The metaserver may keep its answer back until that instance has ended, so nobody waits for it: a good
// answer changes nothing, any other one is reported. Its body is read by nobody.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "http/client.h"
#include "http/io_loop.h"
#include "net/address.h"

namespace baton::serve {

// How long a metaserver may keep its answer back: longer than any prefill takes.
inline constexpr Duration kMetaserverWait = std::chrono::minutes(10);
inline constexpr size_t kMetaserverAnswerBytesMax = 64UL << 10;

struct Metaserver {
  net::Address at;
  std::string target;  // path and query as they were given
  bool operator==(const Metaserver&) const = default;
};
// "http://host[:port]/path". kInvalid names the URL: another scheme, a user, a fragment, no host.
Result<Metaserver> parse_metaserver(std::string_view url);

// One post. Going out of scope hangs up, whether it was answered or not.
class MetaserverPost {
 public:
  // `refused` is called at most once, on the io thread: the post could not be made, or was answered with a
  // status other than 200 to 299.
  MetaserverPost(http::IoLoop& loop, http::Client& client, const Metaserver& to, std::string body,
                 std::function<void(Error)> refused);
  ~MetaserverPost();
  MetaserverPost(const MetaserverPost&) = delete;
  MetaserverPost& operator=(const MetaserverPost&) = delete;

 private:
  struct State;
  static http::Awaitable<void> run(std::shared_ptr<State> state, http::ClientRequest request);
  std::shared_ptr<State> state_;
};

}  // namespace baton::serve
