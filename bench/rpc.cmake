# RPC round trip through a channel, beside a bare epoll echo and (where it is installed) gRPC.
add_executable(rpc_bench rpc_bench.cc)
target_include_directories(rpc_bench PRIVATE ${CMAKE_CURRENT_LIST_DIR})
target_link_libraries(rpc_bench PRIVATE faaskit::uds)
target_compile_features(rpc_bench PRIVATE cxx_std_20)

add_executable(rpc_worker rpc_worker.cc)
target_link_libraries(rpc_worker PRIVATE faaskit::worker)
add_dependencies(rpc_bench rpc_worker)
target_compile_definitions(rpc_bench PRIVATE
  FAASKIT_RPC_WORKER="$<TARGET_FILE:rpc_worker>"
  FAASKIT_RPC_FUNCTION="${CMAKE_CURRENT_LIST_DIR}/rpc_function.py"
  FAASKIT_PYTHON_RUNTIME="${PROJECT_SOURCE_DIR}/runtimes/python/faaskit_runtime.py")

find_package(gRPC CONFIG QUIET)
if(gRPC_FOUND AND TARGET gRPC::grpc_cpp_plugin)
  set(rival ${CMAKE_CURRENT_BINARY_DIR}/rpc_rival)
  file(MAKE_DIRECTORY ${rival})
  add_custom_command(
    OUTPUT ${rival}/rpc_rival.pb.cc ${rival}/rpc_rival.pb.h ${rival}/rpc_rival.grpc.pb.cc ${rival}/rpc_rival.grpc.pb.h
    COMMAND protobuf::protoc --proto_path=${CMAKE_CURRENT_LIST_DIR} --cpp_out=${rival} --grpc_out=${rival}
            --plugin=protoc-gen-grpc=$<TARGET_FILE:gRPC::grpc_cpp_plugin> ${CMAKE_CURRENT_LIST_DIR}/rpc_rival.proto
    DEPENDS ${CMAKE_CURRENT_LIST_DIR}/rpc_rival.proto
    VERBATIM)
  target_sources(rpc_bench PRIVATE rpc_rival.cc ${rival}/rpc_rival.pb.cc ${rival}/rpc_rival.grpc.pb.cc)
  target_include_directories(rpc_bench SYSTEM PRIVATE ${rival})
  target_link_libraries(rpc_bench PRIVATE gRPC::grpc++ protobuf::libprotobuf)
  target_compile_definitions(rpc_bench PRIVATE FAASKIT_HAVE_GRPC=1)
endif()
add_feature_info(bench-grpc gRPC_FOUND "rpc_bench compares with gRPC")
