// gRPC unary over a Unix socket: what one would use otherwise.
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "rpc_bench.h"
#include "rpc_rival.grpc.pb.h"

namespace faaskit::bench {
namespace {

class EchoService final : public Echo::Service {
  grpc::Status Run(grpc::ServerContext*, const Call* call, Reply* reply) override {
    reply->set_payload(call->payload());
    reply->set_content_type(call->content_type());
    return grpc::Status::OK;
  }
};

}  // namespace

int serve_grpc(const std::string& address) {
  EchoService service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  server->Wait();
  return 0;
}

Samples run_grpc(const Cell& cell, const std::string& binary) {
  Samples samples;
  char folder[] = "/tmp/rpc_bench.XXXXXX";
  if (::mkdtemp(folder) == nullptr) return {{}, "mkdtemp failed"};
  const std::string address = std::string("unix:") + folder + "/socket";

  const pid_t pid = ::fork();
  if (pid == 0) {
    pin(0, server_cpu(cell));
    ::execl(binary.c_str(), binary.c_str(), "--serve-grpc", address.c_str(), nullptr);
    ::_exit(127);
  }
  {
    pin(0, kClientCpu);  // before the library makes its threads
    const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
    const std::unique_ptr<Echo::Stub> stub = Echo::NewStub(channel);
    if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
      samples.error = "the server did not come up in 10 s";
    }
    const std::string payload = payload_of(cell.payload_bytes);
    Stopwatch watch(samples);
    for (int i = 0; i < cell.round_trips && samples.error.empty(); ++i) {
      Call call;
      call.set_token(static_cast<std::uint64_t>(i) + 1);
      call.set_invoker(0x123456789ABCDEF);
      call.set_sequence(static_cast<std::uint64_t>(i));
      call.set_timeout_us(1000000);
      call.set_content_type("application/json");
      call.set_payload(payload);
      Reply reply;
      grpc::ClientContext context;
      watch.start();
      const grpc::Status status = stub->Run(&context, call, &reply);
      watch.stop();
      if (!status.ok() || reply.payload() != payload)
        samples.error = "wrong answer: " + status.error_message();
    }
  }
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  return samples;
}

}  // namespace faaskit::bench
