#include "proxy/exchange.h"

#include <memory>
#include <string>
#include <utility>

#include "proxy/layerwise_exchange.h"
#include "proxy/pull_exchange.h"

namespace baton::proxy {

std::unique_ptr<Exchange> make_exchange(Hub& hub, api::HandoverOrder order, const http::Request& from,
                                        Receiver& receiver, router::ClientBody client, std::string id) {
  if (order == api::HandoverOrder::kLayerwise)
    return std::make_unique<LayerwiseExchange>(hub, from, receiver, std::move(client), std::move(id));
  return std::make_unique<PullExchange>(hub, from, receiver, std::move(client), std::move(id));
}

}  // namespace baton::proxy
