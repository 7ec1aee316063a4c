// Reads typed values out of one JSON object of a foreign file. The first failure is kept and later reads
// return their fallback, so a parser reads like a list of fields and asks once at the end. A null counts as
// absent.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::checkpoint {

class JsonFields {
 public:
  // `where` begins every message: "config.json" or "config.json: rope_scaling". `object` must outlive this.
  JsonFields(std::string where, const boost::json::object& object)
      : where_(std::move(where)), object_(object) {}

  bool has(std::string_view key) const;

  // An integer in [min, max]; a number with a zero fraction counts. Absent and no fallback is a failure.
  int64_t integer(std::string_view key, int64_t min, int64_t max, std::optional<int64_t> fallback = {});
  size_t count(std::string_view key, size_t min, size_t max, std::optional<size_t> fallback = {});
  // A finite number in [min, max].
  double number(std::string_view key, double min, double max, std::optional<double> fallback = {});
  std::optional<double> optional_number(std::string_view key, double min, double max);
  std::optional<int64_t> optional_integer(std::string_view key, int64_t min, int64_t max);
  bool boolean(std::string_view key, bool fallback);
  std::string text(std::string_view key, std::optional<std::string> fallback = {});
  // One integer or an array of them, each in [min, max]; empty if absent.
  std::vector<int64_t> integers(std::string_view key, int64_t min, int64_t max);
  std::vector<std::string> texts(std::string_view key);
  // Nothing if absent.
  const boost::json::object* object(std::string_view key);

  // Keeps the failure "WHERE: KEY: MESSAGE" unless one is kept already.
  void reject(std::string_view key, std::string_view message);
  const std::optional<Error>& failure() const { return failure_; }

 private:
  const boost::json::value* find(std::string_view key) const;

  std::string where_;
  const boost::json::object& object_;
  std::optional<Error> failure_;
};

}  // namespace baton::checkpoint
