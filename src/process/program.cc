#include "process/program.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <absl/strings/str_cat.h>

#include "support/errno_status.h"

namespace faaskit::process {

Program::Arg Program::slot(int index) {
  Arg arg;
  arg.kind_ = kArgSlot;
  arg.value_ = static_cast<std::uint64_t>(index);
  return arg;
}

Program::Arg Program::fd(int descriptor) {
  Arg arg;
  arg.kind_ = kArgFd;
  arg.value_ = static_cast<std::uint64_t>(descriptor);
  return arg;
}

Program::Arg Program::bytes(std::string_view bytes) {
  Arg arg;
  arg.kind_ = kArgData;
  arg.bytes_ = std::string(bytes);
  return arg;
}

Program::Arg Program::table(std::vector<std::string> texts) {
  Arg arg;
  arg.kind_ = kArgTable;
  arg.table_ = std::move(texts);
  return arg;
}

std::uint64_t Program::add_data(std::string_view bytes) {
  data_.resize((data_.size() + 7) & ~std::size_t{7}, '\0');
  const std::uint64_t at = data_.size();
  data_.append(bytes);
  return at;
}

Program& Program::call(std::string label, long number, std::vector<Arg> args, int save, int tolerated) {
  SpawnerCall call{};
  call.number = static_cast<std::uint64_t>(number);
  call.save = static_cast<std::int8_t>(save);
  call.tolerated = static_cast<std::uint8_t>(tolerated);
  for (std::size_t i = 0; i < args.size() && i < 6; ++i) {
    Arg& arg = args[i];
    call.kinds[i] = static_cast<std::uint8_t>(arg.kind_);
    call.args[i] = arg.value_;
    if (arg.kind_ == kArgData) call.args[i] = add_data(arg.bytes_);
    if (arg.kind_ == kArgFd) {
      call.args[i] = fds_.size();
      fds_.push_back(static_cast<int>(arg.value_));
    }
    if (arg.kind_ == kArgBlock) {
      const std::uint64_t block[2] = {arg.value_, add_data(arg.bytes_)};
      call.args[i] = add_data(std::string_view(reinterpret_cast<const char*>(block), sizeof block));
    }
    if (arg.kind_ == kArgTable) {
      std::vector<std::uint64_t> offsets;
      for (const std::string& text : arg.table_)
        offsets.push_back(add_data(std::string_view(text.c_str(), text.size() + 1)));
      offsets.push_back(UINT64_MAX);
      call.args[i] = add_data(std::string_view(reinterpret_cast<const char*>(offsets.data()),
                                               offsets.size() * sizeof(std::uint64_t)));
    }
  }
  calls_.push_back(call);
  labels_.push_back(std::move(label));
  return *this;
}

absl::Status Program::send(int control, std::chrono::milliseconds timeout) const {
  SpawnerProgram header{kSpawnerMagic, static_cast<std::uint32_t>(calls_.size()),
                        static_cast<std::uint32_t>(data_.size()), static_cast<std::uint32_t>(fds_.size())};
  const std::size_t call_bytes = calls_.size() * sizeof(SpawnerCall);
  if (sizeof header + call_bytes + data_.size() > kSpawnerMaxBytes)
    return absl::InvalidArgumentError(
        absl::StrCat("set-up of the sandbox: ", sizeof header + call_bytes + data_.size(), " bytes, limit ",
                     static_cast<int>(kSpawnerMaxBytes)));
  if (fds_.size() > kSpawnerMaxFds)
    return absl::InternalError(
        absl::StrCat("set-up of the sandbox: more than ", static_cast<int>(kSpawnerMaxFds), " descriptors"));

  std::string message(reinterpret_cast<const char*>(&header), sizeof header);
  message.append(reinterpret_cast<const char*>(calls_.data()), call_bytes);
  message.append(data_);

  const timeval limit{timeout.count() / 1000, static_cast<suseconds_t>(timeout.count() % 1000 * 1000)};
  ::setsockopt(control, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  alignas(cmsghdr) char ancillary[CMSG_SPACE(sizeof(int) * kSpawnerMaxFds)] = {};
  std::size_t sent = 0;
  while (sent < message.size()) {
    iovec part{message.data() + sent, message.size() - sent};
    msghdr packet{};
    packet.msg_iov = &part;
    packet.msg_iovlen = 1;
    if (sent == 0 && !fds_.empty()) {
      packet.msg_control = ancillary;
      packet.msg_controllen = CMSG_SPACE(sizeof(int) * fds_.size());
      cmsghdr* rights = CMSG_FIRSTHDR(&packet);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof(int) * fds_.size());
      std::memcpy(CMSG_DATA(rights), fds_.data(), sizeof(int) * fds_.size());
    }
    const ssize_t wrote = ::sendmsg(control, &packet, MSG_NOSIGNAL);
    if (wrote > 0) {
      sent += static_cast<std::size_t>(wrote);
    } else if (errno == EAGAIN) {
      return absl::DeadlineExceededError(
          absl::StrCat("set-up of the sandbox: took no orders for ", timeout.count(), " ms"));
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return absl::UnavailableError("set-up of the sandbox: the spare has ended");
    } else if (errno != EINTR) {
      return errno_status(errno, "set-up of the sandbox: sendmsg");
    }
  }
  return absl::OkStatus();
}

absl::Status Program::receive(int control, std::chrono::milliseconds timeout, bool& closed) const {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  SpawnerReply reply{};
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd ready{control, POLLIN, 0};
    const int polled = ::poll(&ready, 1, left.count() > 0 ? static_cast<int>(left.count()) : 0);
    if (polled < 0 && errno == EINTR) continue;
    if (polled <= 0)
      return absl::DeadlineExceededError(
          absl::StrCat("set-up of the sandbox: no answer within ", timeout.count(), " ms"));
    // A reply is smaller than anything a stream socket would split.
    const ssize_t got = ::recv(control, &reply, sizeof reply, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      closed = true;
      return absl::OkStatus();
    }
    if (got != sizeof reply) return absl::InternalError("set-up of the sandbox: half an answer");
    break;
  }
  if (reply.failed_call < 0) return absl::OkStatus();
  const std::size_t index = static_cast<std::size_t>(reply.failed_call);
  const std::string what =
      absl::StrCat("set-up of the sandbox: ", index < labels_.size() ? labels_[index] : "?");
  absl::Status cause = errno_status(reply.error, what);
  // What the machine has run out of may come back; anything else is this sandbox's own failure.
  if (absl::IsResourceExhausted(cause)) return cause;
  return absl::UnavailableError(std::string(cause.message()));
}

absl::Status Program::run(int control, std::chrono::milliseconds timeout) const {
  if (absl::Status status = send(control, timeout); !status.ok()) return status;
  bool closed = false;
  if (absl::Status status = receive(control, timeout, closed); !status.ok()) return status;
  if (closed) return absl::UnavailableError("set-up of the sandbox: it ended meanwhile");
  return absl::OkStatus();
}

absl::Status Program::run_and_become(int control, std::chrono::milliseconds timeout) const {
  if (absl::Status status = send(control, timeout); !status.ok()) return status;
  bool closed = false;
  if (absl::Status status = receive(control, timeout, closed); !status.ok()) return status;
  if (!closed) return absl::InternalError("set-up of the sandbox: the last call returned");
  return absl::OkStatus();
}

}  // namespace faaskit::process
