// Every installed component: its headers are all there, and its archive links with what the package names.
#include <faaskit/core/slots.h>

#ifdef HAS_testing
#include <faaskit/testing/manual_clock.h>
#endif
#ifdef HAS_uds
#include <faaskit/uds/channel_factory.h>
#endif
#ifdef HAS_worker
#include <faaskit/worker/worker.h>
#endif
#ifdef HAS_cgroup
#include <faaskit/cgroup/freezer.h>
#endif
#ifdef HAS_process
#include <faaskit/process/sandbox_factory.h>
#endif
#ifdef HAS_local
#include <faaskit/local/platform.h>
#endif
#ifdef HAS_code
#include <faaskit/code/code_store.h>
#include <faaskit/code/manifest.h>
#endif
#ifdef HAS_registry
#include <faaskit/registry/sqlite_registry.h>
#endif
#ifdef HAS_auth
#include <faaskit/auth/jwt.h>
#endif
#ifdef HAS_sinks
#include <faaskit/sinks/records.h>
#endif

// Taken, not called: what a sandbox needs may be missing here. The linker has to find it all the same.
template <class Function>
int linked(Function* function) {
  Function* volatile pointer = function;
  return pointer != nullptr ? 1 : 0;
}

int main() {
  int found = linked(&faaskit::slot_of);
  int wanted = 1;
#ifdef HAS_testing
  faaskit::testing::ManualClock clock;
  found += clock.now() == clock.now() ? 1 : 0;
  ++wanted;
#endif
#ifdef HAS_uds
  found += linked(&faaskit::uds::make_channel_factory);
  ++wanted;
#endif
#ifdef HAS_worker
  found += linked(&faaskit::worker::run);
  ++wanted;
#endif
#ifdef HAS_cgroup
  found += linked(&faaskit::cgroup::make_freezer);
  ++wanted;
#endif
#ifdef HAS_process
  found += linked(&faaskit::process::make_sandbox_factory);
  ++wanted;
#endif
#ifdef HAS_local
  found += linked(&faaskit::local::make_platform);
  ++wanted;
#endif
#ifdef HAS_code
  found += linked(&faaskit::code::make_code_store) + linked(&faaskit::code::parse_manifest);
  wanted += 2;
#endif
#ifdef HAS_registry
  found += linked(&faaskit::registry::make_sqlite_registry);
  ++wanted;
#endif
#ifdef HAS_auth
  found += linked(&faaskit::auth::make_jwt_verifier);
  ++wanted;
#endif
#ifdef HAS_sinks
  found += linked(&faaskit::sinks::make_record_file_sink);
  ++wanted;
#endif
  return found == wanted ? 0 : 1;
}
