// Sums over the components of all pairs of queries and keys, and their gradients, of the formula in BESS_FORMULA:
// handlers of XLA's foreign functions.
//
// Arguments are the leaves (..., b, F) of queries and (..., n, F) of keys, and for gradients the cotangents (..., b, n);
// results are the sums (..., b, n), or gradients of the shapes of the leaves. All of them are float32.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "handler.h"
#include "vector.h"
#include BESS_FORMULA

namespace {

constexpr int Q = Terms::Q, K = Terms::K, S = Terms::S;

// ---------------------------------------------------------------------------------------------------------- memory

// Memory that is kept from call to call: new pages cost as much as the work of a small call.
class Pool {
 public:
  float* take(size_t size) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it)
      if (it->size >= size && (best == free_.end() || it->size < best->size)) best = it;
    if (best == free_.end() || best->size > 4 * size + 4096) return new_block(size);
    Block block = *best;
    free_.erase(best);
    kept_ -= block.size;
    used_.push_back(block);
    return block.data;
  }
  void give(float* data) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = std::find_if(used_.begin(), used_.end(), [&](const Block& x) { return x.data == data; });
    Block block = *it;
    used_.erase(it);
    if (kept_ + block.size > kMost) return std::free(block.data);
    kept_ += block.size;
    free_.push_back(block);
  }

 private:
  struct Block {
    size_t size;
    float* data;
  };
  static constexpr size_t kMost = size_t{16} << 20;  // floats: 64 MiB

  float* new_block(size_t size) {
    size = (size + 1023) / 1024 * 1024;
    float* data = static_cast<float*>(std::aligned_alloc(64, size * sizeof(float)));
    if (!data) throw std::bad_alloc();
    used_.push_back({size, data});
    return data;
  }

  std::mutex mutex_;
  std::vector<Block> free_, used_;
  size_t kept_ = 0;
};

Pool pool;

struct Scratch {
  explicit Scratch(size_t size) : data(pool.take(size)) {}
  ~Scratch() { pool.give(data); }
  Scratch(const Scratch&) = delete;
  float* const data;
};

// --------------------------------------------------------------------------------------------------------- threads

// Numbers below 2^-126 are 0 in programs of XLA on a CPU; its threads, which run parts of a call, are not all set so.
struct FlushDenormals {
#if defined(__SSE2__)
  const unsigned before = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(before | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before); }
#endif
};

// f(0), ..., f(n - 1) on XLA's threads and this one. It waits only for what has begun: a helper that comes late finds
// nothing to do, so callers that hold all threads do not wait for each other.
template <class F>
void parallel(ffi::ThreadPool& threads, int64_t n, const F& f) {
  struct State {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto state = std::make_shared<State>();
  auto work = [state, n, &f]() {
    FlushDenormals flush;
    int64_t mine = 0;
    for (int64_t i; (i = state->next.fetch_add(1)) < n; mine++) f(i);
    if (mine == 0) return;
    std::lock_guard<std::mutex> lock(state->mutex);
    if ((state->done += mine) == n) state->all_done.notify_one();
  };
  const int64_t helpers = std::min(n, threads.num_threads()) - 1;
  for (int64_t i = 0; i < helpers; i++) threads.Schedule(std::decay_t<decltype(work)>(work));
  work();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->all_done.wait(lock, [&] { return state->done == n; });
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ------------------------------------------------------------------------------------------------------------ sums

// The first numbers at p; in place of more lanes, the last one.
BESS_INLINE V load_some(const float* p, int64_t lanes) {
  if (lanes == W) return load(p);
  V x;
  for (int i = 0; i < W; i++) x[i] = p[std::min<int64_t>(i, lanes - 1)];
  return x;
}

// Lanes go over keys. A tile is R queries and U vectors of keys, summed over all components in registers.
constexpr int QP = Terms::QP, KP = Terms::KP;
constexpr int U = KP * 2 + S * 4 <= 8 ? 2 : 1;
constexpr int R = std::max(1, std::min(4, (N_REGISTER - 4 - KP * U) / (S * U)));
constexpr int L = U * W;
constexpr int kRows = 8 * R;  // queries of a block, whose tiles go over a panel of keys in turn

// Rows first, ..., first + N - 1 of leaves (n, D), prepared, as [D][part][N]; in place of rows past the end, the last one.
template <int LEAVES, int PARTS, int N, class Prepare>
void pack_across(Prepare prepare, const float* const* leaves, int64_t first, int64_t n, int64_t D, float* out) {
  for (int i = 0; i < N; i++)
    for (int64_t d = 0; d < D; d += W) {
      const int64_t lanes = std::min<int64_t>(W, D - d), start = std::min(first + i, n - 1) * D + d;
      V row[LEAVES], parts[PARTS];
      for (int leaf = 0; leaf < LEAVES; leaf++) row[leaf] = load_some(leaves[leaf] + start, lanes);
      prepare(row, parts);
      for (int part = 0; part < PARTS; part++)
        for (int64_t j = 0; j < lanes; j++) out[((d + j) * PARTS + part) * N + i] = parts[part][j];
    }
}

__attribute__((noinline)) void sums_of_tile(const float* q, const float* k, int64_t D, V (&total)[R][U][S]) {
  V sum[R][U][S] = {};
  const V one = opaque_one();
  for (int64_t d = 0; d < D; d++, q += QP * R, k += KP * L) {
    V key[U][KP];
    BESS_UNROLL for (int u = 0; u < U; u++) BESS_UNROLL for (int i = 0; i < KP; i++) key[u][i] = load(k + i * L + u * W);
    BESS_UNROLL for (int r = 0; r < R; r++) {
      V query[QP];
      BESS_UNROLL for (int i = 0; i < QP; i++) query[i] = splat(q[i * R + r]);
      BESS_UNROLL for (int u = 0; u < U; u++) Terms::sums(query, key[u], sum[r][u], one);
    }
  }
  std::memcpy(total, sum, sizeof sum);
}

struct Shape {
  int64_t batch, b, n, D;
};

void all_sums(ffi::ThreadPool& threads, Shape x, const float* const* query, const float* const* key, float* const* out) {
  const int64_t panels = ceil_div(x.n, L), blocks = ceil_div(x.b, kRows), panel_size = x.D * KP * L;
  Scratch keys(x.batch * panels * panel_size);
  parallel(threads, x.batch * panels, [&](int64_t task) {
    const float* leaves[K];
    for (int i = 0; i < K; i++) leaves[i] = key[i] + task / panels * x.n * x.D;
    pack_across<K, KP, L>(Terms::prepare_key, leaves, task % panels * L, x.n, x.D, keys.data + task * panel_size);
  });
  const int64_t wanted = 4 * std::max<int64_t>(1, threads.num_threads());
  const int64_t groups = std::min(panels, ceil_div(wanted, x.batch * blocks)), in_group = ceil_div(panels, groups);
  parallel(threads, x.batch * blocks * groups, [&](int64_t task) {
    const int64_t group = task % groups, block = task / groups % blocks, batch = task / groups / blocks;
    const int64_t first = block * kRows, rows = std::min<int64_t>(kRows, x.b - first);
    const float* leaves[Q];
    for (int i = 0; i < Q; i++) leaves[i] = query[i] + batch * x.b * x.D;
    Scratch queries(x.D * QP * kRows);
    for (int64_t r = 0; r < rows; r += R) 
      pack_across<Q, QP, R>(Terms::prepare_query, leaves, first + r, x.b, x.D, queries.data + r * x.D * QP);
    for (int64_t p = group * in_group; p < std::min(panels, (group + 1) * in_group); p++)
      for (int64_t r0 = 0; r0 < rows; r0 += R) {
        V sum[R][U][S];
        sums_of_tile(queries.data + r0 * x.D * QP, keys.data + (batch * panels + p) * panel_size, x.D, sum);
        const int64_t lanes = std::min<int64_t>(L, x.n - p * L);
        for (int64_t r = 0; r < std::min<int64_t>(R, rows - r0); r++)
          for (int s = 0; s < S; s++) {
            float line[L];
            for (int u = 0; u < U; u++) store(line + u * W, sum[r][u][s]);
            std::memcpy(out[s] + ((batch * x.b + first + r0 + r) * x.n + p * L), line, lanes * sizeof(float));
          }
      }
  });
}

// ------------------------------------------------------------------------------------------------------- gradients

// Lanes go over components: a task has W of them, of all keys and of a part of the queries. T queries are kept in
// registers, with their gradients, while keys pass by.
constexpr int T = std::max(1, std::min(4, (N_REGISTER - 4 - 2 * K) / (2 * Q)));
constexpr int kKeys = 256;  // keys of a tile, which stays in the cache with its gradients for all queries

// Components first, ..., first + W - 1 of leaves (n, D) as [n][leaf][W]; past the end, the last one.
template <int LEAVES>
void pack_along(const float* const* leaves, int64_t n, int64_t D, int64_t first, float* out) {
  const int64_t lanes = std::min<int64_t>(W, D - first);
  for (int64_t i = 0; i < n; i++)
    for (int leaf = 0; leaf < LEAVES; leaf++, out += W) store(out, load_some(leaves[leaf] + i * D + first, lanes));
}

template <int LEAVES>
void unpack_along(const float* in, int64_t n, int64_t D, int64_t first, float* const* leaves) {
  const int64_t lanes = std::min<int64_t>(W, D - first);
  for (int64_t i = 0; i < n; i++)
    for (int leaf = 0; leaf < LEAVES; leaf++, in += W) std::memcpy(leaves[leaf] + i * D + first, in, lanes * sizeof(float));
}

// N queries and n keys: q [N][leaf][W], k [n][leaf][W], w[sum] rows of `stride` floats.
template <int N>
__attribute__((noinline)) void gradients_of_tile(const float* q, const float* k, const float* const* w, int64_t stride, int64_t n, float* gq,
                       float* gk) {
  const V one = opaque_one();
  V query[N][Q], to_query[N][Q];
  BESS_UNROLL for (int r = 0; r < N; r++) BESS_UNROLL for (int i = 0; i < Q; i++) {
    query[r][i] = load(q + (r * Q + i) * W);
    to_query[r][i] = load(gq + (r * Q + i) * W);
  }
  const float* weights[S];
  for (int s = 0; s < S; s++) weights[s] = w[s];
  for (int64_t c = 0; c < n; c++, k += K * W, gk += K * W) {
    V key[K], to_key[K];
    BESS_UNROLL for (int i = 0; i < K; i++) {
      key[i] = load(k + i * W);
      to_key[i] = load(gk + i * W);
    }
    BESS_UNROLL for (int r = 0; r < N; r++) {
      V weight[S];
      BESS_UNROLL for (int s = 0; s < S; s++) weight[s] = splat(weights[s][r * stride + c]);
      Terms::gradients(query[r], key, weight, to_query[r], to_key, one);
    }
    BESS_UNROLL for (int i = 0; i < K; i++) store(gk + i * W, to_key[i]);
  }
  BESS_UNROLL for (int r = 0; r < N; r++) BESS_UNROLL for (int i = 0; i < Q; i++)
    store(gq + (r * Q + i) * W, to_query[r][i]);
}

void all_gradients(ffi::ThreadPool& threads, Shape x, const float* const* query, const float* const* key,
                   const float* const* weight, float* const* to_query, float* const* to_key) {
  const int64_t blocks = ceil_div(x.D, W), n_thread = std::max<int64_t>(1, threads.num_threads());
  const int64_t wanted = std::min(ceil_div(n_thread, x.batch * blocks), ceil_div(x.b, 4 * T));
  const int64_t rows = ceil_div(ceil_div(x.b, wanted), T) * T, chunks = ceil_div(x.b, rows), size = x.batch * x.n * x.D;
  Scratch parts(chunks > 1 ? chunks * K * size : 1);  // gradients by keys of each chunk of queries
  parallel(threads, x.batch * blocks * chunks, [&](int64_t task) {
    const int64_t chunk = task % chunks, d = task / chunks % blocks * W, batch = task / chunks / blocks;
    const int64_t first = chunk * rows, b = std::min(rows, x.b - first);
    const float *q_leaves[Q], *k_leaves[K], *w[S];
    float *gq_leaves[Q], *gk_leaves[K];
    for (int i = 0; i < Q; i++) q_leaves[i] = query[i] + (batch * x.b + first) * x.D;
    for (int i = 0; i < Q; i++) gq_leaves[i] = to_query[i] + (batch * x.b + first) * x.D;
    for (int i = 0; i < K; i++) k_leaves[i] = key[i] + batch * x.n * x.D;
    for (int i = 0; i < K; i++)
      gk_leaves[i] = (chunks > 1 ? parts.data + (chunk * K + i) * size : to_key[i]) + batch * x.n * x.D;
    Scratch scratch(2 * W * (b * Q + x.n * K));
    float *q = scratch.data, *gq = q + b * Q * W, *k = gq + b * Q * W, *gk = k + x.n * K * W;
    pack_along<Q>(q_leaves, b, x.D, d, q);
    pack_along<K>(k_leaves, x.n, x.D, d, k);
    std::fill(gq, gq + b * Q * W, 0.0f);
    std::fill(gk, gk + x.n * K * W, 0.0f);
    for (int64_t c = 0; c < x.n; c += kKeys) {
      const int64_t n = std::min<int64_t>(kKeys, x.n - c);
      float *k_tile = k + c * K * W, *gk_tile = gk + c * K * W;
      for (int64_t r = 0; r < b;) {
        const bool full = r + T <= b;
        for (int s = 0; s < S; s++) w[s] = weight[s] + (batch * x.b + first + r) * x.n + c;
        const auto tile = full ? gradients_of_tile<T> : gradients_of_tile<1>;
        tile(q + r * Q * W, k_tile, w, x.n, n, gq + r * Q * W, gk_tile);
        r += full ? T : 1;
      }
    }
    unpack_along<Q>(gq, b, x.D, d, gq_leaves);
    unpack_along<K>(gk, x.n, x.D, d, gk_leaves);
  });
  if (chunks == 1) return;
  const int64_t piece = 4096, pieces = ceil_div(size, piece);
  parallel(threads, K * pieces, [&](int64_t task) {
    const int64_t leaf = task / pieces, first = task % pieces * piece, last = std::min(size, first + piece);
    for (int64_t i = first; i < last; i++) {
      float sum = parts.data[leaf * size + i];
      for (int64_t chunk = 1; chunk < chunks; chunk++) sum += parts.data[(chunk * K + leaf) * size + i];
      to_key[leaf][i] = sum;
    }
  });
}

// -------------------------------------------------------------------------------------------------------- handlers

// The data of N buffers.
template <int N>
void data_of(ffi::Buffer* const* buffers, float* (&out)[N]) {
  for (int i = 0; i < N; i++) out[i] = static_cast<float*>(buffers[i]->data);
}

int64_t size_of(const ffi::Buffer& buffer) {
  int64_t size = 1;
  for (int64_t i = 0; i < buffer.rank; i++) size *= buffer.dims[i];
  return size;
}

// Whether there is anything to sum; the results are 0 otherwise.
bool shape_of(ffi::Buffer* const* args, ffi::Buffer* const* results, int n_result, Shape& x) {
  const ffi::Buffer &query = *args[0], &key = *args[Q];
  const int64_t b = query.dims[query.rank - 2], D = query.dims[query.rank - 1], n = key.dims[key.rank - 2];
  x = {1, b, n, D};
  for (int64_t i = 0; i + 2 < query.rank; i++) x.batch *= query.dims[i];
  if (x.batch * b * n * D > 0) return true;
  for (int i = 0; i < n_result; i++)
    if (const int64_t size = size_of(*results[i])) std::memset(results[i]->data, 0, size * sizeof(float));
  return false;
}

void run_sums(ffi::ThreadPool threads, ffi::Buffer* const* args, ffi::Buffer* const* results) {
  Shape x;
  if (!shape_of(args, results, S, x)) return;
  float *query[Q], *key[K], *out[S];
  data_of(args, query);
  data_of(args + Q, key);
  data_of(results, out);
  all_sums(threads, x, query, key, out);
}

void run_gradients(ffi::ThreadPool threads, ffi::Buffer* const* args, ffi::Buffer* const* results) {
  Shape x;
  if (!shape_of(args, results, Q + K, x)) return;
  float *query[Q], *key[K], *weight[S], *to_query[Q], *to_key[K];
  data_of(args, query);
  data_of(args + Q, key);
  data_of(args + Q + K, weight);
  data_of(results, to_query);
  data_of(results + Q, to_key);
  all_gradients(threads, x, query, key, weight, to_query, to_key);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* BessSums(XLA_FFI_CallFrame* frame) {
  return ffi::handle(frame, Q + K, S, run_sums);
}

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* BessGradients(XLA_FFI_CallFrame* frame) {
  return ffi::handle(frame, Q + K + S, Q + K, run_gradients);
}
