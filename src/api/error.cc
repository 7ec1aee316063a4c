#include "api/json.h"
#include "api/response.h"

namespace baton::api {
namespace {

// The class of the error, as OpenAI's clients and vLLM name it.
std::string_view type_name(int status) {
  switch (status) {
    case 400:
      return "BadRequestError";
    case 401:
      return "AuthenticationError";
    case 403:
      return "PermissionDeniedError";
    case 404:
      return "NotFoundError";
    case 405:
      return "MethodNotAllowedError";
    case 413:
    case 431:
      return "RequestTooLargeError";
    case 415:
      return "UnsupportedMediaTypeError";
    case 429:
      return "RateLimitError";
    case 499:
      return "ClientClosedRequestError";
    case 502:
      return "BadGatewayError";
    case 503:
      return "ServiceUnavailableError";
    case 504:
      return "TimeoutError";
    default:
      return status < 500 ? "BadRequestError" : "InternalServerError";
  }
}

}  // namespace

int http_status(Code code) {
  switch (code) {
    case Code::kInvalid:
      return 400;
    case Code::kNotFound:
      return 404;
    case Code::kExhausted:
      return 429;
    case Code::kUnavailable:
      return 503;
    case Code::kTimeout:
      return 504;
    case Code::kCancelled:
      return 499;
    case Code::kIo:
      return 500;
    case Code::kCorrupt:
      return 502;
    case Code::kDenied:
      return 401;
  }
  return 500;
}

std::string render_error(const Error& error) { return render_error(error, http_status(error.code)); }

std::string render_error(const Error& error, int status) {
  std::string out = "{\"error\":{\"message\":";
  append_json_string(out, error.message);
  out += ",\"type\":";
  append_json_string(out, type_name(status));
  out += ",\"param\":";
  if (error.param.empty()) {
    out += "null";
  } else {
    append_json_string(out, error.param);
  }
  out += ",\"code\":";
  append_json_integer(out, status);
  out += "}}";
  return out;
}

}  // namespace baton::api
