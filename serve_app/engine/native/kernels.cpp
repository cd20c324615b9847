// A step of the Llama and Qwen families on a CPU, with weights in float32 or in 8 bits and everything else in float32.
//
// Every row is computed by itself, in one order, so its numbers do not depend on whom it shares a batch with, nor on
// the number of threads. Plain C calls; the pointers belong to the caller.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>

#include "products.hpp"

extern "C" int omp_get_thread_num();

namespace {

constexpr int kFewRows = 4;  // so few that every thread does what lies between products for itself
constexpr int kQueries = 48; // that meet a tile of keys together
constexpr int kTogether = Of<float>::rows; // queries that share registers
constexpr int kLine = 16;    // numbers that come from memory together

struct Layer {
  const float *input_norm;
  Product qkv;
  const float *q_norm, *k_norm; // both or none
  Product output;
  const float *post_norm;
  Product gate_up, down;
};

struct Model {
  const Layer *layers;
  const float *norm;
  Product head;
  const float *turns; // [context, head_dim]: cosine and sine of each pair
  int64_t layer_count, hidden, heads, kv_heads, head_dim, feed_forward;
  float eps;
};

struct Cache {
  float *const *keys; // one for each layer: [pages, kv_heads, page, head_dim]
  float *const *values;
  int64_t page;
};

// One row is one token. `blocks` [block_count, 3]: a first row, how many rows, and the position of the first; they are
// of one request and in its order, and their queries of one key head are at most kQueries. `pages` [block_count,
// stride]: those of the request. `wanted`: rows whose logits are asked for.
struct Step {
  int64_t rows;
  const int64_t *blocks;
  int64_t block_count;
  const int32_t *pages;
  int64_t stride;
  const int64_t *wanted;
  int64_t wanted_count;
  int64_t single; // whether no two rows belong to one request
};

struct Scratch {
  void *ready;         // [rows, widest input] as products take them; of few rows, one for each thread
  float *ready_scale;  // [rows], likewise
  float *room;         // [threads, widest input]
  float *wide;         // [rows, widest output of a layer]
  float *mixed;        // [rows, heads * head_dim]
  float *scores;       // [threads, queries, longest]
  float *tiles;        // [threads, kQueries + kOuts, head_dim]: queries, and keys turned over
  int64_t queries, longest, widest; // `queries` of a block, at most; `longest`: a multiple of kOuts
};

float norm_factor(const float *row, int64_t width, float eps) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; i++) sum += row[i] * row[i];
  return 1 / std::sqrt(sum / width + eps);
}

void norm_row(const float *row, const float *weight, int64_t width, float eps, float *to) {
  const float factor = norm_factor(row, width, eps);
#pragma omp simd
  for (int64_t i = 0; i < width; i++) to[i] = row[i] * factor * weight[i];
}

// ---- Between products ----

// Within 2 ulp over the range where it is not 0 or infinite.
inline float exponential(float x) {
  x = std::min(88.0f, std::max(-87.0f, x));
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1;
  p = p * r + 1;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

void gate(const float *gate_up, int64_t width, float *to) {
  const float *up = gate_up + width;
#pragma omp simd
  for (int64_t i = 0; i < width; i++) to[i] = gate_up[i] / (1 + exponential(-gate_up[i])) * up[i];
}

void turn(float *head, const float *turns, int64_t width) {
  for (int64_t i = 0; i < width; i += 2) {
    const float a = head[i], b = head[i + 1], c = turns[i], s = turns[i + 1];
    head[i] = a * c - b * s;
    head[i + 1] = a * s + b * c;
  }
}

float *place(float *memory, const Model &m, const Cache &cache, const int32_t *pages, int64_t head, int64_t at) {
  const int64_t page = pages[at / cache.page];
  return memory + ((page * m.kv_heads + head) * cache.page + at % cache.page) * m.head_dim;
}

void ready_head(const Model &m, const float *norm, int64_t at, float *head) {
  if (norm) norm_row(head, norm, m.head_dim, m.eps, head);
  turn(head, m.turns + at * m.head_dim, m.head_dim);
}

// The rows of a block and one key head, whose queries meet the keys up to their own.
struct Meeting {
  int64_t row, tokens, position, head, group;
  const int32_t *pages;

  int64_t queries() const { return tokens * group; }
  // How many keys query `q` sees; they are ordered by token.
  int64_t seen(int64_t q) const { return position + q / group + 1; }
};

Meeting meeting(const Model &m, const Step &step, int64_t item) {
  const int64_t number = item / m.kv_heads, *block = step.blocks + 3 * number;
  return {block[0], block[1], block[2], item % m.kv_heads, m.heads / m.kv_heads, step.pages + number * step.stride};
}

// Rotate the keys of a meeting and its queries, in place, and store its keys and values.
void rotate_and_store(const Model &m, const Layer &layer, const Cache &cache, int64_t index, const Meeting &of,
                      float *wide) {
  const int64_t width = m.head_dim;
  for (int64_t token = 0; token < of.tokens; token++) {
    float *qkv = wide + (of.row + token) * layer.qkv.out;
    const int64_t at = of.position + token;
    for (int64_t h = of.head * of.group; h < (of.head + 1) * of.group; h++)
      ready_head(m, layer.q_norm, at, qkv + h * width);
    float *key = qkv + (m.heads + of.head) * width, *value = key + m.kv_heads * width;
    ready_head(m, layer.k_norm, at, key);
    std::memcpy(place(cache.keys[index], m, cache, of.pages, of.head, at), key, width * sizeof(float));
    std::memcpy(place(cache.values[index], m, cache, of.pages, of.head, at), value, width * sizeof(float));
  }
}

// Eight numbers from `at` on of each of eight rows, to [8, kOuts].
void turn_over(const float *const *rows, int64_t at, float *to) {
  __m256 a[8], b[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(rows[i] + at);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
    a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(to + i * kOuts, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * kOuts, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  }
}

void soften(float *scores, int64_t count) {
  float peak = scores[0], sum = 0;
#pragma omp simd reduction(max : peak)
  for (int64_t i = 0; i < count; i++) peak = std::max(peak, scores[i]);
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; i++) sum += scores[i] = exponential(scores[i] - peak);
#pragma omp simd
  for (int64_t i = 0; i < count; i++) scores[i] /= sum;
}

// Products of queries with keys, kOuts keys at a time: `turned` is room for them, [head_dim, kOuts]. Every product is a
// sum of its own in one order, whoever else meets.
void score(const Model &m, float *keys, const Cache &cache, const Meeting &of, const float *queries, float *turned,
           float *scores, int64_t longest) {
  const int64_t width = m.head_dim, length = of.seen(of.queries() - 1);
  for (int64_t at = 0; at < length; at += kOuts) {
    const float *rows[kOuts];
    for (int64_t i = 0, left = 0; i < kOuts; i++) {
      if (at + i >= length) {
        rows[i] = rows[i - 1]; // what comes of it nobody reads
      } else if (left-- > 0) {
        rows[i] = rows[i - 1] + width;
      } else {
        rows[i] = place(keys, m, cache, of.pages, of.head, at + i);
        left = cache.page - 1 - (at + i) % cache.page;
      }
      // The tile after the next one, as far as it lies in this page.
      for (int64_t j = 0; j < width; j += kLine)
        _mm_prefetch(reinterpret_cast<const char *>(rows[i] + 2 * kOuts * width + j), _MM_HINT_T1);
    }
    for (int64_t i = 0; i < width; i += 8)
      for (int64_t half = 0; half < kOuts; half += 8) turn_over(rows + half, i, turned + i * kOuts + half);
    for (int64_t q = std::max<int64_t>(0, at - of.position) * of.group; q < of.queries(); q += kTogether)
      with_constant<kTogether>(std::min<int64_t>(kTogether, of.queries() - q), [&](auto count) {
        float found[count][kOuts];
        sums<count>(turned, kOuts, queries + q * width, width, width, NothingAhead{}, found);
        for (int i = 0; i < count; i++) std::memcpy(scores + (q + i) * longest + at, found[i], sizeof found[i]);
      });
  }
}

// Values weighted by `shares` [queries, longest], summed page by page, to the rows of `mixed`.
void mix(const Model &m, float *values, const Cache &cache, const Meeting &of, const float *shares, int64_t longest,
         float *mixed) {
  const int64_t width = m.head_dim;
  for (int64_t q = 0; q < of.queries(); q += kTogether)
    with_constant<kTogether>(std::min<int64_t>(kTogether, of.queries() - q), [&](auto count) {
      const int64_t length = of.seen(q + count - 1);
      for (int64_t i = 0; i < width; i += kOuts) {
        float whole[count][kOuts] = {}, part[count][kOuts];
        for (int64_t at = 0; at < length; at += cache.page) {
          const float *page = place(values, m, cache, of.pages, of.head, at);
          const int64_t tokens = std::min(cache.page, length - at);
          sums<count>(page + i, width, shares + q * longest + at, longest, tokens, NothingAhead{}, part);
          for (int r = 0; r < count; r++)
            for (int o = 0; o < kOuts; o++) whole[r][o] += part[r][o];
        }
        for (int r = 0; r < count; r++) {
          const int64_t row = of.row + (q + r) / of.group, head = of.head * of.group + (q + r) % of.group;
          std::memcpy(mixed + (row * m.heads + head) * width + i, whole[r], sizeof whole[r]);
        }
      }
    });
}

// What the queries of a meeting find, to `mixed` [rows, heads * head_dim].
void attend(const Model &m, const Layer &layer, const Cache &cache, int64_t index, const Meeting &of,
            const Scratch &s) {
  const int64_t width = m.head_dim, count = of.queries(), thread = omp_get_thread_num();
  float *queries = s.tiles + thread * (kQueries + kOuts) * width, *turned = queries + kQueries * width;
  float *scores = s.scores + thread * s.queries * s.longest;
  const float scale = 1 / std::sqrt(static_cast<float>(width));
  for (int64_t q = 0; q < count; q++) {
    const int64_t row = of.row + q / of.group, head = of.head * of.group + q % of.group;
    const float *from = s.wide + row * layer.qkv.out + head * width;
    for (int64_t i = 0; i < width; i++) queries[q * width + i] = from[i] * scale;
  }
  score(m, cache.keys[index], cache, of, queries, turned, scores, s.longest);
  for (int64_t q = 0; q < count; q++) {
    float *own = scores + q * s.longest;
    soften(own, of.seen(q));
    // Whoever shares registers with one that sees more adds nothing for what it does not see.
    std::fill(own + of.seen(q), own + of.seen(count - 1), 0.0f);
  }
  mix(m, cache.values[index], cache, of, scores, s.longest, s.mixed);
}

// Within a parallel region: `mixed` of all rows.
void attention(const Model &m, const Layer &layer, const Cache &cache, int64_t index, const Step &step,
               const Scratch &s) {
  const int64_t items = step.block_count * m.kv_heads;
#pragma omp for schedule(static, 1) nowait
  for (int64_t item = 0; item < items; item++)
    rotate_and_store(m, layer, cache, index, meeting(m, step, item), s.wide);
  // A row of its own request meets only keys that the same thread has just stored, or that lay there before.
  if (!step.single) {
#pragma omp barrier
  }
#pragma omp for schedule(static, 1)
  for (int64_t item = 0; item < items; item++) attend(m, layer, cache, index, meeting(m, step, item), s);
}

// Within a parallel region: rows as products take them, `make(row, room)` giving the numbers of one. Few rows each
// thread makes for itself, which spares a meeting of all.
template <class Number, class Make> Ready<Number> ready(int64_t rows, int64_t width, const Scratch &s, Make make) {
  const int64_t thread = omp_get_thread_num();
  float *room = s.room + thread * s.widest;
  Number *all = static_cast<Number *>(s.ready);
  if (rows <= kFewRows) {
    const Ready<Number> own{all + thread * kFewRows * s.widest, s.ready_scale + thread * kFewRows};
    for (int64_t row = 0; row < rows; row++)
      own.scales[row] = ready_row(make(row, room), width, own.rows + row * width);
    return own;
  }
#pragma omp for schedule(static)
  for (int64_t row = 0; row < rows; row++) s.ready_scale[row] = ready_row(make(row, room), width, all + row * width);
  return {all, s.ready_scale};
}

template <class Number>
Ready<Number> normed(const Model &m, const float *weight, int64_t rows, const float *hidden, const Scratch &s) {
  return ready<Number>(rows, m.hidden, s, [&](int64_t row, float *room) -> const float * {
    norm_row(hidden + row * m.hidden, weight, m.hidden, m.eps, room);
    return room;
  });
}

template <class Number>
void run_layer(const Model &m, const Cache &cache, int64_t index, const Step &step, float *hidden, const Scratch &s) {
  const Layer &layer = m.layers[index];
  const int64_t rows = step.rows, mixed = m.heads * m.head_dim, width = m.feed_forward;
  multiply(layer.qkv, rows, normed<Number>(m, layer.input_norm, rows, hidden, s), s.wide, false);
  attention(m, layer, cache, index, step, s);
  auto found = [&](int64_t row, float *) -> const float * { return s.mixed + row * mixed; };
  multiply(layer.output, rows, ready<Number>(rows, mixed, s, found), hidden, true);
  multiply(layer.gate_up, rows, normed<Number>(m, layer.post_norm, rows, hidden, s), s.wide, false);
  auto gated = [&](int64_t row, float *room) -> const float * {
    gate(s.wide + row * 2 * width, width, room);
    return room;
  };
  multiply(layer.down, rows, ready<Number>(rows, width, s, gated), hidden, true);
}

// Within a parallel region: see run_step.
template <class Number>
void run(const Model &m, const Cache &cache, const Step &step, const Scratch &s, float *hidden, float *last,
         float *logits) {
  for (int64_t index = 0; index < m.layer_count; index++) run_layer<Number>(m, cache, index, step, hidden, s);
#pragma omp for schedule(static)
  for (int64_t i = 0; i < step.wanted_count; i++)
    std::memcpy(last + i * m.hidden, hidden + step.wanted[i] * m.hidden, m.hidden * sizeof(float));
  multiply(m.head, step.wanted_count, normed<Number>(m, m.norm, step.wanted_count, last, s), logits, false);
}

// Within a parallel region: see multiply_rows.
template <class Number>
void multiply_all(const Product &p, int64_t count, const float *rows, Number *room, float *scales, float *to) {
#pragma omp for schedule(static)
  for (int64_t row = 0; row < count; row++) scales[row] = ready_row(rows + row * p.in, p.in, room + row * p.in);
  multiply(p, count, Ready<Number>{room, scales}, to, false);
}

} // namespace

// weights [out, in] as Product keeps them.
extern "C" void pack_int8(const int8_t *weights, int64_t out, int64_t in, int8_t *to) {
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < out / kOuts; block++)
    for (int64_t k = 0; k < in; k++)
      for (int64_t o = 0; o < kOuts; o++)
        to[block * kOuts * in + (k / 2 * kOuts + o) * 2 + k % 2] = weights[(block * kOuts + o) * in + k];
}

// rows [count, in] times one product, to [count, out]. `room` [count, in], `scales` [count] as in Scratch.
extern "C" void multiply_rows(const Product *p, int64_t count, const float *rows, void *room, float *scales,
                              float *to) {
#pragma omp parallel if (count * p->in * p->out > 65536)
  if (p->scales)
    multiply_all(*p, count, rows, static_cast<int16_t *>(room), scales, to);
  else
    multiply_all(*p, count, rows, static_cast<float *>(room), scales, to);
}

// All layers over `hidden` [rows, hidden], in place; then the head for the wanted rows, to `logits`. All products have
// weights of one kind.
extern "C" void run_step(const Model *m, const Cache *cache, const Step *step, const Scratch *s, float *hidden,
                         float *last, float *logits) {
#pragma omp parallel
  if (m->head.scales)
    run<int16_t>(*m, *cache, *step, *s, hidden, last, logits);
  else
    run<float>(*m, *cache, *step, *s, hidden, last, logits);
}
