// A step of the Llama and Qwen families on a CPU, with weights in float32 or in 8 bits and everything else in float32.
//
// Every row is computed by itself, in one order, so its numbers do not depend on whom it shares a batch with, nor on
// the number of threads. Plain C calls; the pointers belong to the caller.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "products.hpp"

extern "C" int omp_get_thread_num();

namespace {

constexpr int kFewRows = 4;    // so few that every thread does what lies between products for itself

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

// One row is one token. `pages` [rows, stride]: those of its request. `wanted`: rows whose logits are asked for.
struct Step {
  int64_t rows;
  const int64_t *positions;
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
  float *scores;       // [threads, heads / kv_heads, longest]
  int64_t longest, widest;
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

// Rotate a row's key of one head and the queries that share it, in place, and store its key and value.
void rotate_and_store(const Model &m, const Layer &layer, const Cache &cache, int64_t index, const Step &step,
                      int64_t row, int64_t head, float *qkv) {
  const int64_t width = m.head_dim, at = step.positions[row], group = m.heads / m.kv_heads;
  const int32_t *pages = step.pages + row * step.stride;
  for (int64_t h = head * group; h < (head + 1) * group; h++) ready_head(m, layer.q_norm, at, qkv + h * width);
  float *key = qkv + (m.heads + head) * width, *value = key + m.kv_heads * width;
  ready_head(m, layer.k_norm, at, key);
  std::memcpy(place(cache.keys[index], m, cache, pages, head, at), key, width * sizeof(float));
  std::memcpy(place(cache.values[index], m, cache, pages, head, at), value, width * sizeof(float));
}

float dot(const float *a, const float *b, int64_t width) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; i++) sum += a[i] * b[i];
  return sum;
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

// What the queries that share key head `head` find at the positions up to the row's own. WIDTH 0: any.
template <int WIDTH>
void attend(const Model &m, const Cache &cache, int64_t index, const Step &step, int64_t row, int64_t head,
            const float *qkv, const Scratch &scratch, float *scores, float *mixed) {
  const int64_t width = WIDTH ? WIDTH : m.head_dim, group = m.heads / m.kv_heads, length = step.positions[row] + 1;
  const int32_t *pages = step.pages + row * step.stride;
  const float *q = qkv + head * group * width;
  const float scale = 1 / std::sqrt(static_cast<float>(width));
  mixed += head * group * width;
  for (int64_t at = 0; at < length; at++) {
    const float *key = place(cache.keys[index], m, cache, pages, head, at);
    for (int64_t g = 0; g < group; g++) scores[g * scratch.longest + at] = dot(q + g * width, key, width) * scale;
  }
  for (int64_t g = 0; g < group; g++) soften(scores + g * scratch.longest, length);
  std::memset(mixed, 0, group * width * sizeof(float));
  for (int64_t at = 0; at < length; at++) {
    const float *value = place(cache.values[index], m, cache, pages, head, at);
    for (int64_t g = 0; g < group; g++) {
      const float share = scores[g * scratch.longest + at];
      float *to = mixed + g * width;
#pragma omp simd
      for (int64_t i = 0; i < width; i++) to[i] += share * value[i];
    }
  }
}

// Within a parallel region: `mixed` of all rows.
void attention(const Model &m, const Layer &layer, const Cache &cache, int64_t index, const Step &step,
               const Scratch &s) {
  const int64_t wide = layer.qkv.out, narrow = m.heads * m.head_dim, items = step.rows * m.kv_heads;
#pragma omp for schedule(static) nowait
  for (int64_t item = 0; item < items; item++) {
    const int64_t row = item / m.kv_heads;
    rotate_and_store(m, layer, cache, index, step, row, item % m.kv_heads, s.wide + row * wide);
  }
  // A row of its own request meets only keys that the same thread has just stored, or that lay there before.
  if (!step.single) {
#pragma omp barrier
  }
  float *scores = s.scores + omp_get_thread_num() * (m.heads / m.kv_heads) * s.longest;
#pragma omp for schedule(static)
  for (int64_t item = 0; item < items; item++) {
    const int64_t row = item / m.kv_heads, head = item % m.kv_heads;
    auto each = m.head_dim == 64 ? attend<64> : m.head_dim == 128 ? attend<128> : attend<0>;
    each(m, cache, index, step, row, head, s.wide + row * wide, s, scores, s.mixed + row * narrow);
  }
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
