#include "net/resolver.h"

#include <fmt/format.h>

#include <system_error>
#include <thread>

#include "base/mailbox.h"

namespace baton::net {

struct Resolver::Shared {
  Fd wake;
  Lookup lookup;
  Mailbox<Answer> answers{kLookupsMax};
};

Resolver::Resolver(Fd wake, Lookup lookup) : shared_(std::make_shared<Shared>()) {
  shared_->wake = std::move(wake);
  shared_->lookup = std::move(lookup);
}

Resolver::~Resolver() { shared_->answers.close(); }

Result<void> Resolver::ask(const std::string& host) {
  if (asked_.contains(host)) return {};
  if (asked_.size() >= kLookupsMax) {
    return fail(Code::kExhausted,
                fmt::format("host \"{}\": {} names are being resolved, expected fewer", host, asked_.size()));
  }
  try {
    std::thread([shared = shared_, host] {
      Answer answer{host, shared->lookup({host, 0})};
      // Closed: nobody waits for it any longer.
      if (!shared->answers.post(std::move(answer))) return;
      const uint64_t one = 1;
      (void)!::write(shared->wake.get(), &one, sizeof(one));
    }).detach();
  } catch (const std::system_error& error) {
    return fail(Code::kExhausted,
                fmt::format("host \"{}\": no thread to resolve it: {}", host, error.what()));
  }
  asked_.insert(host);
  return {};
}

std::vector<Resolver::Answer> Resolver::take_answers() {
  if (asked_.empty()) return {};
  std::vector<Answer> answers = shared_->answers.take_all();
  for (const Answer& answer : answers) asked_.erase(answer.host);
  return answers;
}

}  // namespace baton::net
