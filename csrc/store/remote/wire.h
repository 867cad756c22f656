#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "store/remote/transport.h"

// InfiniStore's protocol over TCP (of 0.2.35). A request is a packed header (magic, operation,
// bytes of the body), a body, and for a put the value. An answer is a code of 4 bytes; where it is
// 200, a number of 4 bytes comes after it, but for a put, and after that, for a get, the value. A
// server that is sent a body that it can not read dies, so bodies are made here alone.
namespace kvcore::wire {

// The server ends a key at a NUL; longer ones would be allowed.
inline constexpr size_t kMaxKeyBytes = 250;
// More keys than that in one request, and other clients wait.
inline constexpr size_t kMaxKeys = 4096;
// The server sends pieces of 256 KiB, and learns of the end of eight at most before it reads what
// it is asked next. With a ninth still open it would send the same value for ever, and take memory
// for it until it has none.
inline constexpr uint64_t kMaxValueBytes = 2 << 20;
// What others wrote may be larger, and is read to its end all the same, to nowhere.
inline constexpr uint64_t kMaxAnswerBytes = uint64_t{1} << 31;

bool is_key(std::string_view key) noexcept;  // 1 to kMaxKeyBytes of printable ASCII
bool is_sendable(const Request& request) noexcept;

// A server that has no room says so while the value is on its way, and takes that for requests. It
// closes the connection unless the value begins as a request does.
bool looks_like_request(std::span<const std::byte> value) noexcept;

// All of a request but the value.
std::string encode(const Request& request);

// What an answer begins with.
struct Head {
  int32_t code = 0;
  uint32_t number = 0;
};
bool is_done(const Head& head) noexcept;  // the code of success
inline constexpr size_t kCodeBytes = 4;
inline constexpr size_t kHeadBytes = 8;

// Bytes of the head, as far as `received` bytes of it tell: 4 or 8.
size_t head_bytes(Request::Kind kind, const Head& head, size_t received) noexcept;

// Whether any request of that kind has such a head as its answer, whatever was asked for.
bool is_answer(Request::Kind kind, const Head& head) noexcept;

// What a whole head says; nothing where it makes no sense. After kDone for a get, the value
// follows.
std::optional<Reply> reply_of(const Request& request, const Head& head) noexcept;

}  // namespace kvcore::wire
