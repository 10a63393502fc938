// How every asynchronous operation of a port begins: any completion token in, one erased handler down to
// the backend.
#pragma once

#include <utility>

#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/execution/outstanding_work.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/prefer.hpp>

namespace faaskit {

namespace asio = boost::asio;

// Never move-assign one: in Boost 1.81 that recurses until the stack ends. Construct it in its place.
template <class Result>
using Handler = asio::any_completion_handler<void(Result)>;

namespace detail {

// Where a handler completes. It counts as work there until the operation is done: an executor that has
// nothing else to do goes on running for it.
template <class H>
asio::any_io_executor home_of(const H& handler, const asio::any_io_executor& fallback) {
  const asio::any_io_executor home = asio::get_associated_executor(handler, fallback);
  return asio::prefer(home, asio::execution::outstanding_work.tracked);
}

// Calls `self->*op(params, home, handler)`. `home` is taken before the handler's type is erased:
// completions go straight to the caller's executor, never through the object's own.
template <class Result, class Self, class Params>
struct Initiate {
  using executor_type = asio::any_io_executor;
  Self* self;
  void (Self::*op)(Params, asio::any_io_executor, Handler<Result>);

  executor_type get_executor() const { return self->get_executor(); }

  template <class H>
  void operator()(H&& handler, Params params) const {
    asio::any_io_executor home = home_of(handler, self->get_executor());
    (self->*op)(std::move(params), std::move(home), Handler<Result>(std::forward<H>(handler)));
  }
};

}  // namespace detail

template <class Result, class Self, class Params, class Token>
auto initiate(Self* self, void (Self::*op)(Params, asio::any_io_executor, Handler<Result>), Params params,
              Token&& token) {
  return asio::async_initiate<Token, void(Result)>(detail::Initiate<Result, Self, Params>{self, op}, token,
                                                   std::move(params));
}

// Completes an operation: posted exactly once, to the handler's own executor, never inline. A cancellation
// that comes after it finds nothing.
template <class Result>
void complete(const asio::any_io_executor& home, Handler<Result> done, Result result) {
  asio::post(home, [done = std::move(done), result = std::move(result)]() mutable {
    asio::get_associated_cancellation_slot(done).clear();
    std::move(done)(std::move(result));
  });
}

}  // namespace faaskit
