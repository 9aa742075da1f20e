// What XLA's foreign function interface takes, by its C header alone: the C++ one takes three seconds to compile.
#pragma once

#include <cstdint>
#include <new>
#include <utility>

#include "xla/ffi/api/c_api.h"

namespace ffi {

using Buffer = XLA_FFI_Buffer;

// XLA's threads.
class ThreadPool {
 public:
  explicit ThreadPool(XLA_FFI_CallFrame* frame) : frame_(frame) {}

  int64_t num_threads() const {
    int64_t n = 0;
    XLA_FFI_ThreadPool_NumThreads_Args args = {};
    args.struct_size = XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE;
    args.ctx = frame_->ctx;
    args.num_threads = &n;
    return destroyed(frame_->api->XLA_FFI_ThreadPool_NumThreads(&args)) ? 1 : n;
  }

  // Runs a copy of f on one of them, or here if there are none.
  template <class F>
  void Schedule(F f) {
    XLA_FFI_ThreadPool_Schedule_Args args = {};
    args.struct_size = XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE;
    args.ctx = frame_->ctx;
    args.task = [](void* data) {
      F* own = static_cast<F*>(data);
      (*own)();
      delete own;
    };
    args.data = new F(std::move(f));
    if (destroyed(frame_->api->XLA_FFI_ThreadPool_Schedule(&args))) args.task(args.data);
  }

 private:
  bool destroyed(XLA_FFI_Error* error) const {
    if (!error) return false;
    XLA_FFI_Error_Destroy_Args args = {};
    args.struct_size = XLA_FFI_Error_Destroy_Args_STRUCT_SIZE;
    args.error = error;
    frame_->api->XLA_FFI_Error_Destroy(&args);
    return true;
  }

  XLA_FFI_CallFrame* frame_;
};

inline XLA_FFI_Error* failed(XLA_FFI_CallFrame* frame, XLA_FFI_Error_Code code, const char* message) {
  XLA_FFI_Error_Create_Args args = {};
  args.struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE;
  args.message = message;
  args.errc = code;
  return frame->api->XLA_FFI_Error_Create(&args);
}

// Answers what XLA asks of a handler when it is registered, and else calls run(threads, arguments, results), which has so
// many of them.
template <class Run>
XLA_FFI_Error* handle(XLA_FFI_CallFrame* frame, int64_t n_args, int64_t n_rets, Run run) {
  if (frame->extension_start && frame->extension_start->type == XLA_FFI_Extension_Metadata) {
    auto& version = reinterpret_cast<XLA_FFI_Metadata_Extension*>(frame->extension_start)->metadata->api_version;
    version = {};
    version.struct_size = XLA_FFI_Api_Version_STRUCT_SIZE;
    version.major_version = XLA_FFI_API_MAJOR;
    version.minor_version = XLA_FFI_API_MINOR;
    return nullptr;
  }
  if (frame->args.size != n_args || frame->rets.size != n_rets)
    return failed(frame, XLA_FFI_Error_Code_INVALID_ARGUMENT, "leaves are not the formula's");
  try {
    run(ThreadPool(frame), reinterpret_cast<Buffer**>(frame->args.args), reinterpret_cast<Buffer**>(frame->rets.rets));
  } catch (const std::bad_alloc&) {
    return failed(frame, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "out of memory in sums over pairs");
  }
  return nullptr;
}

}  // namespace ffi
