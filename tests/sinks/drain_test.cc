// If these failed: every response would pay for waking the thread that writes its record.
#include "sinks/drain.h"

#include <boost/asio/io_context.hpp>

#include "catch.hpp"

namespace faaskit::sinks {
namespace {

using namespace std::chrono_literals;

struct Queue {
  boost::asio::io_context loop;
  std::size_t batches = 0;
  std::size_t items = 0;
  std::shared_ptr<Drain<int>> drain =
      std::make_shared<Drain<int>>(loop.get_executor(), 1000, [this](Drain<int>::Batch& batch) {
        ++batches;
        items += batch.size();
      });
};

TEST_CASE("pushes of a moment are consumed together, a moment later", "[sinks][drain]") {
  Queue queue;
  for (int i = 0; i < 50; ++i) CHECK(queue.drain->push(int(i), 1));
  // Nobody was woken for them.
  CHECK(queue.loop.poll() == 0);
  queue.loop.restart();
  CHECK(queue.loop.run_one_for(5s) == 1);
  CHECK(queue.items == 50);
  CHECK(queue.batches == 1);
}

TEST_CASE("a queue that fills up is consumed at once", "[sinks][drain]") {
  Queue queue;
  CHECK(queue.drain->push(1, 400));
  CHECK(queue.loop.poll() == 0);
  CHECK(queue.drain->push(2, 400));
  queue.loop.restart();
  CHECK(queue.loop.poll() == 1);
  CHECK(queue.items == 2);
  // The timer of the first push finds nothing to do, and what came after it is not forgotten.
  CHECK(queue.drain->push(3, 1));
  queue.loop.restart();
  queue.loop.run_for(5s);
  CHECK(queue.items == 3);
}

TEST_CASE("who waits for it does it", "[sinks][drain]") {
  Queue queue;
  CHECK(queue.drain->push(1, 1));
  CHECK(queue.drain->wait(0ms) == false);
  CHECK(queue.drain->wait(5s));
  CHECK(queue.items == 1);
  queue.loop.run();
  CHECK(queue.batches == 1);
}

}  // namespace
}  // namespace faaskit::sinks
