// What the queue asks of a Host, and what the Host tells it of itself.
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/post.hpp>

#include "provision/host.h"
#include "support/time.h"

namespace faaskit {

void Host::noticed(const std::vector<HostNotice>& notices) {
  for (const HostNotice& notice : notices) {
    SandboxPtr sandbox = find(notice.sandbox);
    if (!sandbox) continue;
    asio::post(sandbox->shard().executor, [sandbox, notice] {
      if (notice.kind == HostNotice::Kind::retire) {
        sandbox->retire("the queue retired it");
      } else {
        sandbox->answer_lease(notice.token, notice.lease, true);
      }
    });
  }
}

void Host::arm_announce() {
  if (stopping_) return;
  announce_timer_->arm(after(parts.clock->now(), options.announce_period), [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->gather();
  });
}

void Host::gather() {
  arm_announce();
  for (const SandboxPtr& sandbox : all()) sandbox->kept_at = 0;
  starts_.may_evict();
  pump();
  auto gathering = std::make_shared<Gathering>();
  gathering->missing = shards_.size();
  for (const auto& shard : shards_) {
    asio::post(shard->executor, [self = shared_from_this(), gathering, shard = shard.get()] {
      std::vector<AnnouncedSandbox> part;
      for (const auto& [number, sandbox] : shard->sandboxes) {
        // Reaped, and its groups are being removed: how it ended is reported, and it must not come back.
        if (!sandbox->gone()) part.push_back(sandbox->announced());
      }
      asio::post(self->control(), [self, gathering, part = std::move(part)] {
        gathering->sandboxes.insert(gathering->sandboxes.end(), part.begin(), part.end());
        if (--gathering->missing == 0) self->announce(std::move(gathering->sandboxes));
      });
    });
  }
}

void Host::announce(std::vector<AnnouncedSandbox> sandboxes) {
  AnnounceParams params{.host = id_, .sandboxes = std::move(sandboxes)};
  parts.idle->async_announce(
      std::move(params), asio::bind_executor(control(), [self = shared_from_this()](
                                                            absl::StatusOr<std::vector<HeldSandbox>> held) {
        if (held.ok()) self->reconcile(*held);
      }));
}

void Host::reconcile(const std::vector<HeldSandbox>& held) {
  for (const HeldSandbox& record : held) {
    SandboxPtr sandbox = find(record.id);
    if (!sandbox) {
      absl::StatusOr<FunctionHandle> handle = parts.idle->resolve(record.function);
      if (handle.ok()) report_gone({.function = *handle, .sandbox = record.id, .start = {}});
      continue;
    }
    asio::post(sandbox->shard().executor, [sandbox, record] {
      if (record.state == SandboxState::retiring) {
        sandbox->retire("the queue holds it as retiring");
      } else if (record.state == SandboxState::leased) {
        sandbox->answer_lease(record.token, record.lease, record.suspect);
      }
    });
  }
}

}  // namespace faaskit
