#include "store/remote/wire.h"

#include <cstring>
#include <string>
#include <vector>

#include "doctest/doctest.h"

namespace kvcore {
namespace {

using Kind = Request::Kind;

Request of(Kind kind, std::vector<std::string> keys, std::span<std::byte> value = {}) {
  Request request{.kind = kind, .keys = std::move(keys)};
  if (!value.empty()) request.pieces.push_back(value);
  return request;
}

uint32_t word_at(const std::string& bytes, size_t at) {
  uint32_t word;
  std::memcpy(&word, bytes.data() + at, sizeof(word));
  return word;
}

// As a server finds it: through the root, the vtable and the offsets.
size_t field_of(const std::string& body, uint32_t index) {
  const uint32_t table = word_at(body, 0);
  const uint32_t vtable = table - word_at(body, table);
  uint16_t offset;
  std::memcpy(&offset, body.data() + vtable + 4 + 2 * index, sizeof(offset));
  return table + offset;
}

std::string string_at(const std::string& body, size_t at) {
  const size_t text = at + word_at(body, at);
  return body.substr(text + 4, word_at(body, text));
}

std::string body_of(const std::string& request) {
  CHECK(word_at(request, 0) == 0xdeadbeef);
  CHECK(word_at(request, 5) == request.size() - 9);
  return request.substr(9);
}

TEST_CASE("requests say what a server reads") {
  std::vector<std::byte> value(1000);
  for (size_t length : {1, 2, 3, 4, 65, 82, 250}) {
    const std::string key(length, 'k');
    const std::string put = wire::encode(of(Kind::kPut, {key}, value));
    CHECK(put[4] == 'L');
    const std::string body = body_of(put);
    CHECK(string_at(body, field_of(body, 0)) == key);
    CHECK(word_at(body, field_of(body, 1)) == 1000);
    CHECK(body[field_of(body, 2)] == 'P');
    const std::string get = body_of(wire::encode(of(Kind::kGet, {key}, value)));
    CHECK(string_at(get, field_of(get, 0)) == key);
    CHECK(get[field_of(get, 2)] == 'G');
    CHECK(body_of(wire::encode(of(Kind::kContains, {key}))) == key);
  }
  const std::vector<std::string> keys{"a", "bb", "ccc", "dddd"};
  for (Kind kind : {Kind::kMatch, Kind::kRemove}) {
    const std::string request = wire::encode(of(kind, keys));
    CHECK(request[4] == (kind == Kind::kMatch ? 'M' : 'X'));
    const std::string body = body_of(request);
    const size_t field = field_of(body, 0), vector = field + word_at(body, field);
    REQUIRE(word_at(body, vector) == keys.size());
    for (size_t i = 0; i < keys.size(); ++i) {
      CHECK(string_at(body, vector + 4 + 4 * i) == keys[i]);
      CHECK((vector + 4 + 4 * i + word_at(body, vector + 4 + 4 * i)) % 4 == 0);
    }
  }
}

TEST_CASE("what a server would not survive is not sent") {
  std::vector<std::byte> value(8);
  CHECK(wire::is_sendable(of(Kind::kGet, {"key"}, value)));
  CHECK_FALSE(wire::is_sendable(of(Kind::kGet, {"key"})));
  CHECK_FALSE(wire::is_sendable(of(Kind::kGet, {""}, value)));
  CHECK_FALSE(wire::is_sendable(of(Kind::kGet, {}, value)));
  CHECK_FALSE(wire::is_sendable(of(Kind::kGet, {"a", "b"}, value)));
  CHECK_FALSE(wire::is_sendable(of(Kind::kPut, {std::string("a\0b", 3)}, value)));
  CHECK_FALSE(wire::is_sendable(of(Kind::kPut, {"a b"}, value)));
  CHECK_FALSE(wire::is_sendable(of(Kind::kPut, {"\x80"}, value)));
  CHECK_FALSE(wire::is_sendable(of(Kind::kPut, {std::string(251, 'k')}, value)));
  std::vector<std::byte> largest(wire::kMaxValueBytes + 1);
  CHECK_FALSE(wire::is_sendable(of(Kind::kGet, {"key"}, largest)));
  largest.pop_back();
  CHECK(wire::is_sendable(of(Kind::kGet, {"key"}, largest)));
  CHECK_FALSE(wire::is_sendable(of(Kind::kContains, {""})));
  CHECK_FALSE(wire::is_sendable(of(Kind::kMatch, std::vector<std::string>(4097, "k"))));
  CHECK(wire::is_sendable(of(Kind::kMatch, std::vector<std::string>(4096, "k"))));
  const uint32_t magic = 0xdeadbeef;
  CHECK(wire::looks_like_request(std::as_bytes(std::span(&magic, 1))));
  CHECK_FALSE(wire::looks_like_request(value));
}

TEST_CASE("answers that make no sense are none") {
  std::vector<std::byte> value(100);
  const Request get = of(Kind::kGet, {"k"}, value), put = of(Kind::kPut, {"k"}, value);
  const Request contains = of(Kind::kContains, {"k"}), match = of(Kind::kMatch, {"a", "b"});
  const Request remove = of(Kind::kRemove, {"a", "b"});
  auto answer = [](const Request& request, int32_t code, uint32_t number) {
    const auto reply = wire::reply_of(request, {code, number});
    return reply ? std::optional(std::pair(reply->answer, reply->number)) : std::nullopt;
  };
  using Pair = std::pair<Answer, uint32_t>;
  CHECK(answer(get, 200, 100) == Pair(Answer::kDone, 100));
  CHECK_FALSE(answer(get, 200, 99));
  CHECK_FALSE(answer(get, 200, 0xffffffff));
  CHECK(answer(get, 404, 0) == Pair(Answer::kMiss, 0));
  CHECK_FALSE(answer(put, 404, 0));
  CHECK(answer(put, 200, 7) == Pair(Answer::kDone, 0));
  CHECK(answer(put, 507, 0) == Pair(Answer::kFull, 0));
  CHECK_FALSE(answer(get, 507, 0));
  CHECK(answer(contains, 200, 0) == Pair(Answer::kDone, 1));
  CHECK(answer(contains, 200, 1) == Pair(Answer::kDone, 0));
  CHECK_FALSE(answer(contains, 200, 2));
  CHECK(answer(match, 200, 0xffffffff) == Pair(Answer::kDone, 0));
  CHECK(answer(match, 200, 1) == Pair(Answer::kDone, 2));
  CHECK_FALSE(answer(match, 200, 2));
  CHECK(answer(remove, 200, 2) == Pair(Answer::kDone, 2));
  CHECK_FALSE(answer(remove, 200, 3));
  for (int32_t code : {0, 400, 503, -1, 201}) {
    for (const Request* request : {&get, &put, &contains, &match, &remove}) {
      CHECK_FALSE(answer(*request, code, 0));
    }
  }
  for (Kind kind : {Kind::kGet, Kind::kPut, Kind::kContains, Kind::kMatch, Kind::kRemove}) {
    CHECK(wire::is_answer(kind, {200, 1}));
    CHECK(wire::is_answer(kind, {404, 0}) == (kind == Kind::kGet));
    CHECK(wire::is_answer(kind, {507, 0}) == (kind == Kind::kPut));
    CHECK_FALSE(wire::is_answer(kind, {503, 0}));
  }
  CHECK(wire::is_answer(Kind::kGet, {200, wire::kMaxAnswerBytes}));
  CHECK_FALSE(wire::is_answer(Kind::kGet, {200, wire::kMaxAnswerBytes + 1}));
  CHECK(wire::head_bytes(Kind::kGet, {404, 0}, 4) == 4);
  CHECK(wire::head_bytes(Kind::kGet, {200, 0}, 4) == 8);
  CHECK(wire::head_bytes(Kind::kPut, {200, 0}, 4) == 4);
  CHECK(wire::head_bytes(Kind::kGet, {200, 0}, 3) == 4);
}

}  // namespace
}  // namespace kvcore
