// What the sessions of a server share. Only for the sources of this room.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <ctime>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "http/loop_parts.h"
#include "http/server.h"
#include "http/wake.h"

namespace baton::http {

struct Server::State : std::enable_shared_from_this<Server::State> {
  State(IoLoop& loop, ServerOptions options, Handler handler);

  void accept();
  void pause_accepting(const error_code& error);
  void welcome(Socket socket, const asio::ip::tcp::endpoint& peer);
  void forget(Session* session);
  void tick();
  void stop_accepting();
  void cut_all();
  std::string_view date();  // of now, as RFC 9110, 5.6.7 writes it

  IoLoop& loop;
  ServerOptions options;
  Handler handler;
  net::Endpoint local;
  ServerCounters counters;
  asio::basic_socket_acceptor<asio::ip::tcp, Executor> acceptor;
  asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>,
                             Executor>
      pause;
  std::shared_ptr<IoLoop::Ticker> ticker;
  std::unordered_set<Session*> sessions;  // each owned by its own coroutine and pending operations
  std::vector<std::shared_ptr<Session>> tick_list;
  Wake drain_progress;  // a session ended, or has sent all it will
  bool draining = false;
  bool pausing = false;
  std::time_t date_second = 0;
  std::string date_text;
};

}  // namespace baton::http
