// A block of codes on a host: loops that a compiler makes of several elements at once, over arrays that stay in cache.
#pragma once

namespace refoptim {

// Elements that a block has at most to be held here, and lanes in which the largest is sought.
constexpr int MOST = 4096, WIDTH = 64;

// The largest magnitude, NaN if one is no number.
inline float largest_magnitude(const float* x, i64 n) {
    float most[WIDTH] = {};
    i64 i = 0;
    for (; i + WIDTH <= n; i += WIDTH)
        for (int l = 0; l < WIDTH; l++)
            most[l] = maximum(most[l], absolute(x[i + l]));
    for (; i < n; i++)
        most[0] = maximum(most[0], absolute(x[i]));
    for (int l = 1; l < WIDTH; l++)
        most[0] = maximum(most[0], most[l]);
    return most[0];
}

// Codes n numbers: all take a step of the search of `below` before any takes the next one.
inline void
encode_all(unsigned char* __restrict codes, const float* __restrict y, int n, const float* __restrict table) {
    int code[MOST];
    for (int i = 0; i < n; i++)
        code[i] = 0;
    for (int bit = 128; bit; bit /= 2)
        for (int i = 0; i < n; i++) {
            int up = code[i] + bit;
            code[i] = y[i] >= table[up] ? up : code[i];
        }
    for (int i = 0; i < n; i++)
        codes[i] = nearer(code[i], y[i], table);
}

// Updates the block of `length` elements from `begin` on, number k of its parameter; false if it is too long for that.
template <class Rule, class P, class G, int N, int... J>
bool update_held(
    const typename Rule::template Record<float>& by_reference, const Preparation<Arithmetic<P>>& prepare,
    const CodedTensor<P, G, N>& tensor, i64 k, i64 length, Numbers<J...>
) {
    if (length > MOST)
        return false;
    const typename Rule::template Record<float> s = by_reference;
    const i64 begin = k * length;
    float p[MOST], g[MOST], x[N][MOST];
    for (i64 i = 0; i < length; i++)
        p[i] = float(widen(tensor.p[begin + i]));
    for (i64 i = 0; i < length; i++)
        g[i] = float(prepare(widen(tensor.g[begin + i])));
    for (int j = 0; j < N; j++) {
        const unsigned char* codes = (const unsigned char*)tensor.state[j] + begin;
        const float scale = tensor.scales[j][k], *table = tensor.tables[j];
        for (i64 i = 0; i < length; i++)
            x[j][i] = decode(codes[i], scale, table);
    }
    for (i64 i = 0; i < length; i++)
        Rule::update(s, p[i], g[i], x[J][i]...);
    for (int j = 0; j < N; j++) {
        const float scale = maximum(largest_magnitude(x[j], length), FLOOR);
        for (i64 i = 0; i < length; i++)
            x[j][i] = div(x[j][i], scale);
        encode_all((unsigned char*)tensor.state[j] + begin, x[j], length, tensor.tables[j]);
        tensor.scales[j][k] = scale;
    }
    for (i64 i = 0; i < length; i++)
        round_to(tensor.p[begin + i], p[i]);
    if constexpr (sizeof(P) != sizeof(G))
        for (i64 i = 0; i < length; i++)
            round_to(tensor.copy[begin + i], p[i]);
    return true;
}

}  // namespace refoptim
