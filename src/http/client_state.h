// What the connections of a client share. Only for the sources of this room.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "http/client.h"
#include "http/connection.h"

namespace baton::http {

struct Interrupt::State {
  std::weak_ptr<Connection> busy;  // with the request; none while it looks for one
  bool is_triggered = false;
};

struct Client::State : std::enable_shared_from_this<Client::State> {
  State(IoLoop& loop, ClientOptions options) : loop(loop), options(std::move(options)) {}

  // A kept connection that is still open, or nothing.
  std::shared_ptr<Connection> take(const net::Address& to);
  // `interrupt` may be nullptr.
  Awaitable<Result<std::shared_ptr<Connection>>> connect(const net::Address& to, Interrupt::State* interrupt);
  Awaitable<Result<std::vector<net::Endpoint>>> resolve(const net::Address& to);

  void set_busy(const std::shared_ptr<Connection>& connection);
  // The exchange ended: keeps the connection or closes it.
  void give_back(const std::shared_ptr<Connection>& connection);
  void forget_resting(Connection* connection);
  void tick();
  void close_all();

  IoLoop& loop;
  ClientOptions options;
  ClientCounters counters;
  std::map<net::Address, std::vector<std::shared_ptr<Connection>>> resting;  // the latest last
  std::unordered_set<std::shared_ptr<Connection>> busy;
  struct Resolved {
    std::vector<net::Endpoint> endpoints;
    Time until;
  };
  std::map<std::string, Resolved> resolved;  // by host
  std::shared_ptr<IoLoop::Ticker> ticker;    // while any connection exists
  bool closed = false;
};

}  // namespace baton::http
