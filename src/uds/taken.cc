#include "uds/taken.h"

#include <boost/asio/post.hpp>

#include "uds/connection.h"

namespace faaskit::uds {

ReplyStream::Taken TakenLedger::slip(std::uint64_t bytes) {
  class Slip {
   public:
    Slip(std::shared_ptr<TakenLedger> ledger, std::uint64_t bytes)
        : ledger_(std::move(ledger)), bytes_(bytes) {}
    Slip(Slip&&) noexcept = default;
    Slip& operator=(Slip&&) = delete;
    ~Slip() { (*this)(); }
    void operator()() {
      if (const auto ledger = std::exchange(ledger_, nullptr)) ledger->add(bytes_);
    }

   private:
    std::shared_ptr<TakenLedger> ledger_;
    std::uint64_t bytes_;
  };
  return Slip(shared_from_this(), bytes);
}

void TakenLedger::add(std::uint64_t bytes) {
  const MutexLock lock(mutex_);
  if (!open_) return;
  // Posted under the lock: while it is held the call lives, and so does the context.
  if (std::exchange(bytes_, bytes_ + bytes) != 0) return;
  asio::post(home_, [self = shared_from_this()] { self->deliver(); });
}

void TakenLedger::deliver() {
  std::uint64_t bytes = 0;
  {
    const MutexLock lock(mutex_);
    if (!open_) return;
    bytes = std::exchange(bytes_, 0);
  }
  if (const auto connection = connection_.lock()) connection->on_taken(bytes);
}

void TakenLedger::close() {
  const MutexLock lock(mutex_);
  open_ = false;
}

}  // namespace faaskit::uds
