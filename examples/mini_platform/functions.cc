#include "functions.h"

#include <absl/strings/str_cat.h>

#include "state.h"

namespace mini {

using faaskit::CodeId;
using faaskit::RegisteredFunction;
using faaskit::local::Function;

namespace {

constexpr std::size_t kMaxManifestBytes = 256 << 10;  // as the registry's

}  // namespace

// The right to change one function. While anybody has one, no code is thrown away: it may be on its way in.
class Functions::Turn {
 public:
  static absl::StatusOr<std::unique_ptr<Turn>> take(Functions& functions, const std::string& name) {
    std::lock_guard lock(functions.turns_mutex_);
    if (functions.busy_.contains(name)) {
      return absl::AbortedError(absl::StrCat("a change of '", name, "' is under way"));
    }
    if (functions.busy_.size() >= functions.options_.max_deploys) {
      return absl::UnavailableError(absl::StrCat(functions.busy_.size(),
                                                 " deploys are under way, the limit is ",
                                                 functions.options_.max_deploys, "; try again"));
    }
    functions.busy_.insert(name);
    return std::unique_ptr<Turn>(new Turn(functions, name));
  }
  ~Turn() {
    std::lock_guard lock(functions_.turns_mutex_);
    functions_.busy_.erase(name_);
    if (functions_.busy_.empty()) functions_.collect();
  }
  void doubt(const CodeId& code) {
    std::lock_guard lock(functions_.turns_mutex_);
    functions_.doubtful_.insert(to_string(code));
  }

 private:
  Turn(Functions& functions, std::string name) : functions_(functions), name_(std::move(name)) {}
  Functions& functions_;
  const std::string name_;
};

Functions::Functions(faaskit::Registry& registry, faaskit::CodeStore& codes,
                     faaskit::local::Platform& platform,
                     std::vector<std::shared_ptr<faaskit::DeployCheck>> checks, FunctionsOptions options)
    : registry_(registry),
      codes_(codes),
      platform_(platform),
      checks_(std::move(checks)),
      options_(options) {}

absl::Status Functions::restore() {
  auto functions = registry_.list();
  if (!functions.ok()) return functions.status();
  for (RegisteredFunction& function : *functions) {
    auto known = std::make_shared<Known>();
    known->registered = std::move(function);
    const std::string& name = known->registered.name;
    auto keys = registry_.keys(name);
    if (!keys.ok()) return keys.status();
    known->keys = *std::move(keys);
    known->state = [&] {
      auto manifest = faaskit::code::parse_manifest(known->registered.manifest);
      if (!manifest.ok()) return manifest.status();
      known->manifest = *std::move(manifest);
      auto lease = codes_.open(known->registered.code);
      if (!lease.ok()) return lease.status();
      auto runnable = to_function(*known);
      return runnable.ok() ? platform_.deploy(*std::move(runnable)) : runnable.status();
    }();
    set(name, std::move(known));
  }
  return absl::OkStatus();
}

KnownPtr Functions::find(std::string_view name) const {
  std::shared_lock lock(table_mutex_);
  const auto known = table_.find(name);
  return known == table_.end() ? nullptr : known->second;
}

std::vector<KnownPtr> Functions::list() const {
  std::shared_lock lock(table_mutex_);
  std::vector<KnownPtr> all;
  for (const auto& [name, known] : table_) all.push_back(known);
  return all;
}

absl::StatusOr<Functions::Deployed> Functions::deploy(const std::string& name,
                                                      const faaskit::CodeSource& source,
                                                      const std::string& owner) {
  if (absl::Status valid = faaskit::validate_function_name(name); !valid.ok()) return valid;
  auto turn = Turn::take(*this, name);
  if (!turn.ok()) return turn.status();
  const KnownPtr before = find(name);
  if (before && owner != "admin" && before->registered.owner != owner) {
    return absl::PermissionDeniedError(absl::StrCat("'", name, "' belongs to somebody else"));
  }
  auto code = codes_.admit(source);
  if (!code.ok()) return code.status();
  // Until the registry names it; and the version that this one pushes out may have been the last of its code.
  (*turn)->doubt(*code);
  if (auto versions = registry_.versions(name); versions.ok()) {
    for (const RegisteredFunction& version : *versions) (*turn)->doubt(version.code);
  }
  auto installed = install(name, *code, owner, before);
  if (!installed.ok()) return installed.status();
  return Deployed{*std::move(installed), before == nullptr};
}

absl::StatusOr<KnownPtr> Functions::install(const std::string& name, const CodeId& code,
                                            const std::string& owner, const KnownPtr& before) {
  auto lease = codes_.open(code);
  if (!lease.ok()) return lease.status();
  auto text = read_small_file((*lease)->path() + "/function.json", kMaxManifestBytes);
  if (!text.ok()) {
    return absl::InvalidArgumentError(absl::IsNotFound(text.status())
                                          ? "function.json: there is none at the top of the code"
                                          : "function.json: cannot be read, or is too long");
  }
  auto manifest = faaskit::code::parse_manifest(*text);
  if (!manifest.ok()) return manifest.status();

  auto known = std::make_shared<Known>();
  known->registered = {.name = name,
                       .owner = owner,
                       .manifest = *std::move(text),
                       .code = code,
                       .requires_key = manifest->requires_key};
  known->manifest = *std::move(manifest);
  auto function = to_function(*known);
  if (!function.ok()) return function.status();

  // All that can be refused is refused before the registry hears of it.
  faaskit::FunctionSpec spec = faaskit::code::make_spec(known->manifest, name, 1, (*lease)->path());
  spec.minimum_isolation = function->minimum_isolation;
  if (absl::Status fits = platform_.factory().check(spec); !fits.ok()) return fits;
  if (const std::string missing = platform_.freezer().missing_limits();
      !missing.empty() && spec.minimum_isolation >= faaskit::Isolation::process) {
    return absl::FailedPreconditionError(
        absl::StrCat("the limits of ", missing,
                     " are not enforced on this machine; minimum_isolation partial would accept that"));
  }
  const faaskit::FunctionConfig rules{.caps = function->caps,
                                      .policy = function->policy,
                                      .retry = function->retry,
                                      .provisioned = function->provisioned};
  if (absl::Status valid = faaskit::validate(name, rules); !valid.ok()) return valid;
  if (absl::Status checked = faaskit::run_checks(checks_, {.spec = &spec, .owner = owner}); !checked.ok()) {
    return checked;
  }

  auto stored = registry_.put(known->registered);
  if (!stored.ok()) return stored.status();
  known->registered = *std::move(stored);
  auto keys = registry_.keys(name);
  if (keys.ok()) known->keys = *std::move(keys);
  function->version = known->registered.version;
  if (absl::Status deployed = platform_.deploy(*function); !deployed.ok()) {
    return take_back(name, before, deployed);
  }
  set(name, known);
  return known;
}

// What was registered does not run, and must not be what a restart finds: what was there before is made the
// newest version. Calls have been running it all the time.
absl::Status Functions::take_back(const std::string& name, const KnownPtr& before, const absl::Status& why) {
  const auto told = [&](const std::string& more) {
    return absl::Status(why.code(), absl::StrCat(std::string(why.message()), "; ", more));
  };
  if (!before) {
    const absl::Status removed = registry_.remove(name);
    return removed.ok() ? why : told("and it stays on record: " + std::string(removed.message()));
  }
  auto known = std::make_shared<Known>(*before);
  auto stored = registry_.put(before->registered);
  if (!stored.ok()) {
    return told(absl::StrCat("version ", before->registered.version,
                             " goes on until the next start: ", std::string(stored.status().message())));
  }
  known->registered = *std::move(stored);
  if (auto function = to_function(*known); function.ok() && platform_.deploy(*std::move(function)).ok()) {
    set(name, known);
  }
  return told("the version before goes on");
}

absl::Status Functions::remove(const std::string& name) {
  auto turn = Turn::take(*this, name);
  if (!turn.ok()) return turn.status();
  auto versions = registry_.versions(name);
  if (!versions.ok()) return versions.status();
  if (absl::Status removed = registry_.remove(name); !removed.ok()) return removed;
  for (const RegisteredFunction& version : *versions) (*turn)->doubt(version.code);
  set(name, nullptr);
  // One that could not run after a restart is not known there.
  const absl::Status removed = platform_.remove(name);
  return absl::IsNotFound(removed) ? absl::OkStatus() : removed;
}

absl::StatusOr<std::vector<RegisteredFunction>> Functions::versions(std::string_view name) const {
  return registry_.versions(name);
}

absl::StatusOr<faaskit::auth::NewAccessKey> Functions::add_key(const std::string& name) {
  auto turn = Turn::take(*this, name);
  if (!turn.ok()) return turn.status();
  auto key = faaskit::auth::make_access_key();
  if (!key.ok()) return key.status();
  absl::Status done = registry_.add_key(
      {.id = key->id, .function = name, .hash = key->hash, .created_at = std::chrono::system_clock::now()});
  // The only bound here is on keys: a conflict with what is there, not a lack of room.
  if (absl::IsResourceExhausted(done)) return absl::AbortedError(std::string(done.message()));
  if (done.ok()) done = registry_.require_key(name, true);
  if (done.ok()) done = refresh(name);
  if (!done.ok()) return done;
  return key;
}

absl::Status Functions::revoke_key(const std::string& name, const std::string& id) {
  auto turn = Turn::take(*this, name);
  if (!turn.ok()) return turn.status();
  if (absl::Status done = registry_.revoke_key(name, id); !done.ok()) return done;
  return refresh(name);
}

absl::Status Functions::open_to_all(const std::string& name) {
  auto turn = Turn::take(*this, name);
  if (!turn.ok()) return turn.status();
  auto keys = registry_.keys(name);
  if (!keys.ok()) return keys.status();
  if (absl::Status done = registry_.require_key(name, false); !done.ok()) return done;
  for (const faaskit::AccessKey& key : *keys) {
    if (absl::Status done = registry_.revoke_key(name, key.id); !done.ok()) return done;
  }
  return refresh(name);
}

absl::StatusOr<Function> Functions::to_function(const Known& known) const {
  const faaskit::code::Manifest& manifest = known.manifest;
  Function function{.name = known.registered.name,
                    .runtime = manifest.runtime,
                    .code = known.registered.code,
                    .handler = manifest.handler,
                    .env = manifest.env,
                    .limits = manifest.limits,
                    .network = manifest.network,
                    .minimum_isolation = std::min(manifest.minimum_isolation, options_.minimum_isolation),
                    .caps = manifest.caps,
                    .policy = manifest.start_policy,
                    .keep_alive = manifest.keep_alive,
                    .lifetime = {.max_age = manifest.max_age,
                                 .max_uses = manifest.max_uses,
                                 .ping_after = manifest.ping_after},
                    .provisioned = manifest.provisioned};
  if (known.registered.version != 0) function.version = known.registered.version;
  for (const faaskit::code::WarmUpPayload& warm_up : manifest.warm_up) {
    function.warm_up.push_back({.payload = warm_up.payload, .content_type = warm_up.content_type});
  }
  return function;
}

// What the registry says now, with the manifest as it was read before.
absl::Status Functions::refresh(const std::string& name) {
  const KnownPtr before = find(name);
  auto registered = registry_.get(name);
  if (!registered.ok()) return registered.status();
  auto keys = registry_.keys(name);
  if (!keys.ok()) return keys.status();
  if (!before) return absl::NotFoundError(absl::StrCat("no function '", name, "'"));
  auto known = std::make_shared<Known>(*before);
  known->registered = *std::move(registered);
  known->keys = *std::move(keys);
  set(name, std::move(known));
  return absl::OkStatus();
}

void Functions::set(const std::string& name, KnownPtr known) {
  std::unique_lock lock(table_mutex_);
  if (known) {
    table_[name] = std::move(known);
  } else {
    table_.erase(name);
  }
}

// REQUIRES: turns_mutex_ held, nobody has a turn.
void Functions::collect() {
  if (doubtful_.empty()) return;
  auto named = registry_.codes();
  if (!named.ok()) return;  // they stay in doubt
  for (const CodeId& code : *named) doubtful_.erase(to_string(code));
  for (const std::string& text : doubtful_) {
    if (auto code = faaskit::parse_code_id(text); code.ok()) (void)codes_.forget(*code);
  }
  doubtful_.clear();
}

}  // namespace mini
