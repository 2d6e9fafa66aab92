// What is the same for all elements of a chunk, asked once: there is a loop for each answer, and it asks no more.
//
// A loop for each set of flags, with the state arrays that are there then; gradients go to the rule as they are, and what is
// usual holds. All else, scaled gradients and maximizing among it, is left to a loop that asks at each vector. To fetch
// memory ahead saves time where many arrays lie beyond the caches, and costs some where they do not: there are loops for both,
// but on AVX-512, where it saves none.
#pragma once

namespace refoptim {

// The flags of a rule whose record holds numbers of type T, and what is usual.
template <class Rule, class T> struct FlagsOf {
    using Type = Flags<>;
};
template <class Rule, class T>
    requires requires { typename Rule::template Asked<T>; }
struct FlagsOf<Rule, T> {
    using Type = typename Rule::template Asked<T>;
};
template <class Rule, class T> struct UsualOf {
    using Type = Flags<>;
};
template <class Rule, class T>
    requires requires { typename Rule::template Expected<T>; }
struct UsualOf<Rule, T> {
    using Type = typename Rule::template Expected<T>;
};

constexpr i64 PAGE = 4096;  // bytes

// So many arrays a processor follows by itself: it takes up to a tenth longer if it is told what to fetch.
constexpr int FOLLOWED = 3;

template <class... F> constexpr int count(Flags<F...>) { return sizeof...(F); }

// Lets the compiler rely on whether something is 0.
template <class X> inline void know(const X& x, bool is_set) {
    if (bool(x) != is_set)
        __builtin_unreachable();
}

// Elements that a loop updates in one go.
template <class P, class G> constexpr int IN_ONE_GO = LANES<Arithmetic<P>>;
#if defined(TWO_REGISTERS)
template <> inline constexpr int IN_ONE_GO<bfloat16, bfloat16> = TWO_REGISTERS;
#endif

template <class Rule, class P, class G, class F, class U, class K, class J> struct Decided;

template <
    class Rule, class P, class G, auto... FIELD, int... STATE, auto... EXPECTED, bool... IS_SET, int... K, int... J>
struct Decided<
    Rule, P, G, Flags<Flag<FIELD, STATE>...>, Flags<Usual<EXPECTED, IS_SET>...>, Numbers<K...>, Numbers<J...>> {
    using T = Arithmetic<P>;
    using Record = typename Rule::template Record<T>;
    using Arrays = Chunk<P, G, sizeof...(J)>;
    using Loop = void (*)(const Record&, const Arrays&);

    static constexpr bool HAS_COPY = sizeof(P) != sizeof(G);

    // Tells whether a state array is there where the flags of `set`, a bit for each, are set.
    static constexpr bool has_state(int state, int set) { return (... && (STATE != state || (set >> K & 1))); }

    static constexpr int arrays(int set) { return 2 + HAS_COPY + (0 + ... + has_state(J, set)); }

    // Which way to go. A processor takes what is read for what was just written at the same place in another page, and waits
    // for it: gradients that begin a little before the parameter would be read where that has been written.
    static i64 direction(const Arrays& chunk) {
        i64 before = ((i64)chunk.p - (i64)chunk.g) & (PAGE - 1);
        return sizeof(P) == sizeof(G) && before && before < PAGE / 8 ? -1 : 1;
    }

    template <int SET> [[gnu::flatten]] static void loop(const Record& record, const Arrays& chunk) {
        constexpr int V = IN_ONE_GO<P, G>, W = SIDE_BY_SIDE<T>;
        const Record s = record;
        const Arrays known = chunk;
        know(known.p && known.g, true);
        know(known.copy, HAS_COPY);
        (know(s.*FIELD, SET >> K & 1), ...);
        (know(s.*EXPECTED, IS_SET), ...);
        (know(known.state[J], has_state(J, SET)), ...);
        const i64 vectors = known.size / V, step = direction(known);
        if (known.in_caches || REGISTER == 64 || step < 0 || arrays(SET) <= FOLLOWED)
            for (i64 left = vectors, i = step < 0 ? left - 1 : 0; left > 0; left--, i += step)
                update_vector<Rule, V, W, false>(s, Preparation<T>(), known, i, Numbers<J...>());
        else
            for (i64 i = 0; i < vectors; i++)
                update_vector<Rule, V, W, true>(s, Preparation<T>(), known, i, Numbers<J...>());
    }

    template <int... SET> static Loop loop_of(int set, Numbers<SET...>) {
        static constexpr Loop LOOPS[] = {loop<SET>...};
        return LOOPS[set];
    }

    static bool update(const Record& s, const Preparation<T>& prepare, const Arrays& chunk) {
        int set = (0 | ... | (bool(s.*FIELD) << K));
        if (prepare.scaled || prepare.maximize || !chunk.p || !chunk.g || bool(chunk.copy) != HAS_COPY)
            return false;
        if (((bool(chunk.state[J]) != has_state(J, set)) || ...) || ((bool(s.*EXPECTED) != IS_SET) || ...))
            return false;
        loop_of(set, typename UpTo<1 << sizeof...(K)>::Type())(s, chunk);
        return true;
    }
};

// Updates the vectors of a chunk in the loop that is made for it; returns false where there is none.
template <class Rule, class T, class P, class G, int N>
inline bool
update_decided(const typename Rule::template Record<T>& s, const Preparation<T>& prepare, const Chunk<P, G, N>& chunk) {
    using F = typename FlagsOf<Rule, T>::Type;
    using U = typename UsualOf<Rule, T>::Type;
    return Decided<Rule, P, G, F, U, typename UpTo<count(F())>::Type, typename UpTo<N>::Type>::update(
        s, prepare, chunk
    );
}

// How many elements of a chunk come before the first whose register of the parameter lies in one line of a cache.
template <class P, class G, int N> inline i64 before_line(const Chunk<P, G, N>& chunk) {
    i64 elements = (-(i64)chunk.p & (IN_ONE_GO<P, G> * sizeof(P) - 1)) / sizeof(P);
    return elements < chunk.size ? elements : 0;
}

// A chunk without its first elements.
template <class P, class G, int N> inline Chunk<P, G, N> rest_of(Chunk<P, G, N> chunk, i64 elements) {
    chunk.size -= elements, chunk.p += elements, chunk.g += elements;
    for (int j = 0; j < N; j++)
        chunk.state[j] += chunk.state[j] ? elements : 0;
    chunk.copy += chunk.copy ? elements : 0;
    return chunk;
}

template <class Rule, class T, class P, class G, int N>
inline void
update_chunk(const typename Rule::template Record<T>& s, const Preparation<T>& prepare, const Chunk<P, G, N>& whole) {
    constexpr int V = IN_ONE_GO<P, G>, W = SIDE_BY_SIDE<T>;
    i64 first = before_line(whole);
    update_elements<Rule, 1, 1>(s, prepare, whole, 0, first);
    const Chunk<P, G, N> chunk = rest_of(whole, first);
    i64 vectors = chunk.size / V;
    if (!update_decided<Rule>(s, prepare, chunk))
        update_elements<Rule, V, W>(s, prepare, chunk, 0, vectors);
    update_elements<Rule, 1, 1>(s, prepare, chunk, vectors * V, chunk.size);
}

}  // namespace refoptim
