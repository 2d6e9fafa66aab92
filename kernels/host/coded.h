// A block of codes on a host, or as many elements that have none: loops that a compiler makes of several elements at once,
// over arrays that stay in cache.
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
    for (int half = WIDTH / 2; half; half /= 2)
        for (int l = 0; l < half; l++)
            most[l] = maximum(most[l], most[l + half]);
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

// The codes of numbers by a table, found by their leading bits: sign, exponent and 7 more. Among numbers that share these
// the code grows once at most, in tables as they are made. Where it does not, all numbers are sought.
class Codes {
    static constexpr int FIRST = 103 << 7, COUNT = (127 << 7) + 1 - FIRST;  // from 2^-24, below which all are one, to 1

    float table[256] = {}, grows[257];  // the least number that has a code or a greater one
    unsigned char least[2 * COUNT];     // the code of the least number that has such leading bits
    bool is_known = false;

    static float number(int bits) { return __uint_as_float(bits); }

    static int place(float y) {
        const unsigned bits = __float_as_uint(y);
        const int i = int(bits << 1 >> 17) - FIRST;
        return (i < 0 ? 0 : i < COUNT ? i : COUNT - 1) + int(bits >> 31) * COUNT;
    }

    int code(float y) const { return nearer(below(y, table), y, table); }

    bool is_sorted() const {
        bool sorted = true;
        for (int i = 0; i < 255; i++)
            sorted &= table[i] <= table[i + 1];
        return sorted;
    }

    // Takes note of numbers with the same leading bits, of which the magnitudes are those of the bits from `low` to `high`.
    bool take(bool negative, int i, int low, int high) {
        float sign = negative ? -1 : 1;
        int begin = negative ? high : low, end = negative ? low : high;
        int first = code(sign * number(begin)), last = code(sign * number(end));
        least[negative * COUNT + i] = first;
        if (last == first)
            return true;
        while (begin - end > 1 || end - begin > 1) {
            int middle = (begin + end) / 2;
            (code(sign * number(middle)) > first ? end : begin) = middle;
        }
        grows[last] = sign * number(end);
        return last == first + 1;
    }

    void learn() {
        is_known = is_sorted();
        for (float& x : grows)
            x = number(0x7F800000);
        for (int i = 0; i < COUNT && is_known; i++) {
            int low = i ? (FIRST + i) << 16 : 0, high = i < COUNT - 1 ? ((FIRST + i + 1) << 16) - 1 : low;
            is_known = take(false, i, low, high) && take(true, i, low, high);
        }
    }

    // Codes n numbers between -1 and 1, or NaN.
    void encode(unsigned char* __restrict codes, const float* __restrict y, int n) const {
        if (!is_known)
            return encode_all(codes, y, n, table);
        for (int i = 0; i < n; i++) {
            const int code = least[place(y[i])];
            codes[i] = (code + (y[i] >= grows[code + 1])) & -(y[i] == y[i]);
        }
    }

public:
    // Writes the codes of n numbers by a table, and returns their scale; `x` is used up.
    float write(unsigned char* codes, float* x, int n, const float* by) {
        if (memcmp(table, by, sizeof table)) {
            memcpy(table, by, sizeof table);
            learn();
        }
        const float scale = maximum(largest_magnitude(x, n), FLOOR);
        for (int i = 0; i < n; i++)
            x[i] = div(x[i], scale);
        encode(codes, x, n);
        return scale;
    }
};

// Reads n numbers of a state array, by their codes where it has some.
template <class P, class G, int N>
void read_state(const CodedTensor<P, G, N>& tensor, int j, i64 begin, i64 n, float scale, float* to) {
    const float* table = tensor.tables[j];
    if (tensor.scales[j])
        for (i64 i = 0; i < n; i++)
            to[i] = decode(((const unsigned char*)tensor.state[j])[begin + i], scale, table);
    else
        for (i64 i = 0; i < n; i++)
            to[i] = float(widen(((const P*)tensor.state[j])[begin + i]));
}

// Updates the `length` elements from `begin` on, block number k of its parameter if that is kept in codes; false if these
// are too many.
template <class Rule, class P, class G, int N, int... J>
bool update_held(
    const typename Rule::template Record<float>& by_reference, const Preparation<Arithmetic<P>>& prepare,
    const CodedTensor<P, G, N>& tensor, i64 begin, i64 length, i64 k, Numbers<J...>
) {
    if (length > MOST)
        return false;
    const typename Rule::template Record<float> s = by_reference;
    static thread_local Codes codes_of[N];
    float p[MOST], g[MOST], x[N][MOST];
    for (i64 i = 0; i < length; i++)
        p[i] = float(widen(tensor.p[begin + i]));
    for (i64 i = 0; i < length; i++)
        g[i] = float(prepare(widen(tensor.g[begin + i])));
    for (int j = 0; j < N; j++)
        read_state(tensor, j, begin, length, tensor.scales[j] ? tensor.scales[j][k] : 0, x[j]);
    for (i64 i = 0; i < length; i++)
        Rule::update(s, p[i], g[i], x[J][i]...);
    for (int j = 0; j < N; j++)
        if (tensor.scales[j])
            tensor.scales[j][k] =
                codes_of[j].write((unsigned char*)tensor.state[j] + begin, x[j], length, tensor.tables[j]);
        else
            for (i64 i = 0; i < length; i++)
                round_to(((P*)tensor.state[j])[begin + i], x[j][i]);
    for (i64 i = 0; i < length; i++)
        round_to(tensor.p[begin + i], p[i]);
    if constexpr (sizeof(P) != sizeof(G))
        for (i64 i = 0; i < length; i++)
            round_to(tensor.copy[begin + i], p[i]);
    return true;
}

}  // namespace refoptim
