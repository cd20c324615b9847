// Products of rows with a matrix of weights, in float32 or in 8 bits.
//
// Weights in 8 bits take activations of 16 bits and sum in 32; a row has one scale, and so has an output. Every row is
// computed by itself, in one order.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <type_traits>

namespace {

constexpr int kOuts = 16;        // outputs of a block: see pack_int8
constexpr int kRowBlock = 48;    // rows whose activations stay in the second-level cache
constexpr int kReadAhead = 4096; // bytes
constexpr int kHandedOut = 4;    // blocks at a time: all but the last have the next one's weights fetched for themselves
constexpr int kFixedRows = 4;    // so few that handing out blocks one by one costs more than it evens out

struct Product {
  const void *weights; // int8 [out / 16, in / 2, 16, 2], or float [out / 16, in, 16]
  const float *scales; // [out], or null: the weights are floats
  const float *bias;   // [out] or null
  int64_t in, out;
};

// Rows as products take them: 16 bits and a scale each for weights in 8 bits, floats for floats.
template <class Number> struct Ready {
  Number *rows;
  float *scales;
};

template <class Number> struct Of;
template <> struct Of<int16_t> {
  using Weight = int8_t;
  using Sum = int32_t;
  static constexpr int rows = 4;   // that share a weight in registers
  static constexpr int inputs = 2; // at a turn of the loop over them
};
template <> struct Of<float> {
  using Weight = float;
  using Sum = float;
  static constexpr int rows = 6;
  static constexpr int inputs = 1;
};

// ---- Activations ----

// The largest whole number whose products with 8-bit weights, summed over `in`, fit in 32 bits.
int64_t most(int64_t in) { return std::min<int64_t>(32767, 2147483647 / (127 * in)); }

float ready_row(const float *row, int64_t in, int16_t *to) {
  float peak = 0;
#pragma omp simd reduction(max : peak)
  for (int64_t i = 0; i < in; i++) peak = std::max(peak, std::fabs(row[i]));
  const float limit = static_cast<float>(most(in));
  const float factor = peak > 0 ? limit / peak : 0;
#pragma omp simd
  for (int64_t i = 0; i < in; i++) to[i] = static_cast<int16_t>(static_cast<int32_t>(std::nearbyint(row[i] * factor)));
  return peak / limit;
}

float ready_row(const float *row, int64_t in, float *to) {
  if (to != row) std::memcpy(to, row, in * sizeof(float));
  return 1;
}

// ---- Products ----

// What is read soon: `step` bytes of it are fetched at each turn of a loop over inputs.
struct Ahead {
  const char *from;
  int64_t step;

  void fetch() {
    _mm_prefetch(from, _MM_HINT_T1);
    from += step;
  }
};
struct NothingAhead {
  void fetch() {}
};

// Loops over rows are unrolled by order: otherwise the sums would go to memory at each turn.

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)

template <int R>
void sums(const int8_t *w, const int16_t *x, int64_t in, Ahead ahead, int32_t (*to)[kOuts]) {
  __m512i even[R], odd[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) even[r] = odd[r] = _mm512_setzero_si512();
  auto pair = [&](int64_t k, __m512i *acc) {
    ahead.fetch();
    const __m512i weight = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(w + k * kOuts)));
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      int32_t two;
      std::memcpy(&two, x + r * in + k, sizeof two);
      acc[r] = _mm512_dpwssd_epi32(acc[r], weight, _mm512_set1_epi32(two));
    }
  };
  int64_t k = 0;
  for (; k + 4 <= in; k += 4) pair(k, even), pair(k + 2, odd);
  if (k < in) pair(k, even);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) _mm512_storeu_si512(to[r], _mm512_add_epi32(even[r], odd[r]));
}

#else

template <int R>
void sums(const int8_t *w, const int16_t *x, int64_t in, Ahead ahead, int32_t (*to)[kOuts]) {
  __m256i low[R], high[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) low[r] = high[r] = _mm256_setzero_si256();
  for (int64_t k = 0; k < in; k += 2, w += 2 * kOuts) {
    ahead.fetch();
    const __m256i first = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(w)));
    const __m256i second = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(w + kOuts)));
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      int32_t two;
      std::memcpy(&two, x + r * in + k, sizeof two);
      const __m256i pair = _mm256_set1_epi32(two);
      low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(first, pair));
      high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(second, pair));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to[r]), low[r]);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to[r] + 8), high[r]);
  }
}

#endif

// Rows [R, in], `x_step` apart, times weights [in, kOuts], `w_step` apart.
template <int R, class Fetching>
void sums(const float *w, int64_t w_step, const float *x, int64_t x_step, int64_t in, Fetching ahead,
          float (*to)[kOuts]) {
  __m256 low[R], high[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) low[r] = high[r] = _mm256_setzero_ps();
  for (int64_t k = 0; k < in; k++, w += w_step) {
    ahead.fetch();
    const __m256 first = _mm256_loadu_ps(w), second = _mm256_loadu_ps(w + 8);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m256 number = _mm256_broadcast_ss(x + r * x_step + k);
      low[r] = _mm256_fmadd_ps(first, number, low[r]);
      high[r] = _mm256_fmadd_ps(second, number, high[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    _mm256_storeu_ps(to[r], low[r]);
    _mm256_storeu_ps(to[r] + 8, high[r]);
  }
}

template <int R>
void sums(const float *w, const float *x, int64_t in, Ahead ahead, float (*to)[kOuts]) {
  sums<R>(w, kOuts, x, in, in, ahead, to);
}

inline float value(int32_t sum, float x_scale, const float *scales, int64_t out) {
  return sum * (x_scale * scales[out]);
}
inline float value(float sum, float, const float *, int64_t) { return sum; }

// `work` with the constant that `rows` is, at most R.
template <int R, class Work> void with_constant(int64_t rows, Work work) {
  if (rows == R) work(std::integral_constant<int, R>{});
  if constexpr (R > 1) {
    if (rows < R) with_constant<R - 1>(rows, work);
  }
}

// R rows of one block of outputs; with `add` they are added to what is there.
template <int R, class Number>
void tile(const Product &p, int64_t block, const Number *x, const float *x_scales, Ahead ahead, float *to,
          bool add) {
  typename Of<Number>::Sum whole[R][kOuts];
  const auto *weights = static_cast<const typename Of<Number>::Weight *>(p.weights);
  sums<R>(weights + block * kOuts * p.in, x, p.in, ahead, whole);
  const float *bias = p.bias ? p.bias + block * kOuts : nullptr;
  for (int r = 0; r < R; r++) {
    float *out = to + r * p.out + block * kOuts;
    for (int o = 0; o < kOuts; o++) {
      const float found = value(whole[r][o], x_scales[r], p.scales, block * kOuts + o) + (bias ? bias[o] : 0);
      out[o] = add ? out[o] + found : found;
    }
  }
}

// What the tiles of a block fetch, the first one's part. Several share the next block: left to itself the processor
// waits for the memory at a block's first tile, and the memory for the processor at the others. A single one only reads
// on, a little before its time.
template <class Number> Ahead ahead_of(const Product &p, int64_t block, int64_t tiles) {
  const int64_t width = kOuts * sizeof(typename Of<Number>::Weight), bytes = width * p.in;
  const int64_t turn = width * Of<Number>::inputs, next = std::min(block + 1, p.out / kOuts - 1);
  const char *weights = static_cast<const char *>(p.weights);
  if (tiles == 1) return {weights + block * bytes + kReadAhead, turn};
  return {weights + next * bytes, (turn + tiles - 1) / tiles};
}

template <class Number>
void rows_of_block(const Product &p, int64_t block, int64_t rows, const Number *x, const float *x_scales, float *to,
                   bool add) {
  constexpr int several = Of<Number>::rows;
  Ahead ahead = ahead_of<Number>(p, block, (rows + several - 1) / several);
  for (int64_t row = 0; row < rows; row += several) {
    with_constant<several>(std::min<int64_t>(several, rows - row), [&](auto count) {
      tile<count>(p, block, x + row * p.in, x_scales + row, ahead, to + row * p.out, add);
    });
    ahead.from += ahead.step * p.in / Of<Number>::inputs;
  }
}

// Within a parallel region: to [rows, out] (+)= x [rows, in] times the weights.
template <class Number>
void multiply(const Product &p, int64_t rows, const Ready<Number> &x, float *to, bool add) {
  constexpr int several = Of<Number>::rows;
  // No rows are none, as where a prompt is read whose end is not in the step.
  if (rows == 0) return;
  const int64_t blocks = p.out / kOuts, stretches = (rows + kRowBlock - 1) / kRowBlock;
  const int64_t most = (rows + stretches * several - 1) / (stretches * several) * several;
  for (int64_t from = 0; from < rows; from += most) {
    const int64_t count = std::min(most, rows - from);
    auto each = [&](int64_t block) {
      rows_of_block(p, block, count, x.rows + from * p.in, x.scales + from, to + from * p.out, add);
    };
    if (count <= kFixedRows) {
#pragma omp for schedule(static)
      for (int64_t block = 0; block < blocks; block++) each(block);
    } else {
#pragma omp for schedule(dynamic, kHandedOut)
      for (int64_t block = 0; block < blocks; block++) each(block);
    }
  }
}

} // namespace
