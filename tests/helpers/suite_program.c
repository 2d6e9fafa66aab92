/* SGD and Adam on the cases of an exported suite, written from its README and the formulas alone.

   cc -DREAL=float suite_program.c -lm && ./a.out FOLDER/CASE.float32 ...   (or -DREAL=double and CASE.float64)

   EPS_INSIDE, DAMPED_FIRST and STEP_AHEAD each build in a mistake. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PARAMETERS = 16, MAX_STEPS = 128, MAX_ELEMENTS = 10000 };

typedef struct {
    char optimizer[32], dtype[32];
    int steps, parameters, size[MAX_PARAMETERS], total;
    double lr, momentum, dampening, weight_decay, beta1, beta2, eps;
    int nesterov, maximize, amsgrad, decoupled, cautious;
    int changes, change_step[64];
    char change_line[64][200];
    char skip[MAX_STEPS][MAX_PARAMETERS];
} Case;

static void fail(const char* what, const char* where) {
    fprintf(stderr, "%s: %s\n", what, where);
    exit(1);
}

static void set_hyper(Case* c, const char* line) {
    char name[64];
    double x = 0, y = 0;
    if (sscanf(line, "%63s %lf %lf", name, &x, &y) < 2)
        fail("no hyperparameter", line);
    if (!strcmp(name, "lr"))
        c->lr = x;
    else if (!strcmp(name, "momentum"))
        c->momentum = x;
    else if (!strcmp(name, "dampening"))
        c->dampening = x;
    else if (!strcmp(name, "weight_decay"))
        c->weight_decay = x;
    else if (!strcmp(name, "eps"))
        c->eps = x;
    else if (!strcmp(name, "betas"))
        c->beta1 = x, c->beta2 = y;
    else if (!strcmp(name, "nesterov"))
        c->nesterov = x != 0;
    else if (!strcmp(name, "maximize"))
        c->maximize = x != 0;
    else if (!strcmp(name, "amsgrad"))
        c->amsgrad = x != 0;
    else if (!strcmp(name, "decoupled_weight_decay"))
        c->decoupled = x != 0;
    else if (!strcmp(name, "cautious"))
        c->cautious = x != 0;
    else
        fail("unknown hyperparameter", line);
}

static void read_shape(Case* c, char* line) {
    int i = (int)strtol(line, &line, 10), rank = (int)strtol(line, &line, 10);
    c->size[i] = 1;
    while (rank--)
        c->size[i] *= (int)strtol(line, &line, 10);
    c->total += c->size[i];
}

static void read_case(Case* c, const char* folder) {
    char path[4096], line[256];
    snprintf(path, sizeof path, "%s/case.txt", folder);
    FILE* file = fopen(path, "r");
    if (!file)
        fail("cannot read", path);
    memset(c, 0, sizeof *c);
    while (fgets(line, sizeof line, file)) {
        char word[64];
        int n = 0, step, i;
        if (sscanf(line, "%63s %n", word, &n) < 1)
            continue;
        char* rest = line + n;
        if (!strcmp(word, "optimizer"))
            sscanf(rest, "%31s", c->optimizer);
        else if (!strcmp(word, "dtype"))
            sscanf(rest, "%31s", c->dtype);
        else if (!strcmp(word, "steps"))
            c->steps = atoi(rest);
        else if (!strcmp(word, "parameters"))
            c->parameters = atoi(rest);
        else if (!strcmp(word, "shape"))
            read_shape(c, rest);
        else if (!strcmp(word, "hyper"))
            set_hyper(c, rest);
        else if (!strcmp(word, "skip") && sscanf(rest, "%d %d", &step, &i) == 2)
            c->skip[step][i] = 1;
        else if (!strcmp(word, "set") && sscanf(rest, "%d %n", &step, &n) == 1) {
            c->change_step[c->changes] = step;
            snprintf(c->change_line[c->changes++], sizeof c->change_line[0], "%s", rest + n);
        } else if (!strcmp(word, "sparse"))
            fail("no sparse gradients here", folder);
    }
    fclose(file);
    if (c->parameters > MAX_PARAMETERS || c->steps >= MAX_STEPS || c->total > MAX_ELEMENTS)
        fail("too large", folder);
}

/* Leaves out of the direction u what does not agree with the gradient g, and scales the rest up. */
static void mask(int n, REAL* u, const REAL* g) {
    int count = 0;
    for (int i = 0; i < n; i++)
        count += u[i] * g[i] > 0;
    double share = (double)count / n;
    REAL by = (REAL)(share > 0.001 ? share : 0.001);
    for (int i = 0; i < n; i++)
        u[i] = u[i] * ((REAL)(u[i] * g[i] > 0) / by);
}

/* One parameter: p and g its numbers and gradient, a, b, m its state, k the count of its steps. */
static void sgd(const Case* c, int n, REAL* p, const REAL* grads, REAL* buf, int k) {
    REAL decay = (REAL)c->weight_decay, momentum = (REAL)c->momentum;
    REAL undamped = (REAL)(1 - c->dampening), step = (REAL)-c->lr;
    static REAL u[MAX_ELEMENTS], own[MAX_ELEMENTS];
    for (int i = 0; i < n; i++) {
        REAL g = c->maximize ? -grads[i] : grads[i];
        if (c->weight_decay != 0)
            g = g + decay * p[i];
        if (c->momentum != 0) {
#ifdef DAMPED_FIRST
            buf[i] = buf[i] * momentum + undamped * g;
            (void)k;
#else
            buf[i] = k == 1 ? g : buf[i] * momentum + undamped * g;
#endif
        }
        own[i] = g;
        u[i] = c->momentum == 0 ? g : c->nesterov ? g + momentum * buf[i] : buf[i];
    }
    if (c->cautious && c->momentum != 0)
        mask(n, u, own);
    for (int i = 0; i < n; i++)
        p[i] = p[i] + step * u[i];
}

static void adam(const Case* c, int n, REAL* p, const REAL* grads, REAL* m, REAL* v, REAL* most, int k) {
#ifdef STEP_AHEAD
    k++;
#endif
    REAL decay = (REAL)c->weight_decay, shrink = (REAL)(1 - c->lr * c->weight_decay);
    REAL c1 = (REAL)(1 - c->beta1), b2 = (REAL)c->beta2, c2 = (REAL)(1 - c->beta2), eps = (REAL)c->eps;
    static REAL u[MAX_ELEMENTS], own[MAX_ELEMENTS], denom[MAX_ELEMENTS];
    REAL root = (REAL)pow(1 - pow(c->beta2, k), 0.5), step = (REAL) - (c->lr / (1 - pow(c->beta1, k)));
    for (int i = 0; i < n; i++) {
        REAL g = c->maximize ? -grads[i] : grads[i];
        if (c->weight_decay != 0 && c->decoupled)
            p[i] = p[i] * shrink;
        else if (c->weight_decay != 0)
            g = g + decay * p[i];
        REAL gap = g - m[i];
        m[i] = fabs((double)c1) < 0.5 ? m[i] + gap * c1 : g - gap * (1 - c1);
        v[i] = v[i] * b2 + (g * c2) * g;
        if (c->amsgrad)
            most[i] = most[i] >= v[i] || most[i] != most[i] ? most[i] : v[i];
        REAL square = c->amsgrad ? most[i] : v[i];
#ifdef EPS_INSIDE
        denom[i] = (REAL)sqrt((double)(square + eps)) / root;
#else
        denom[i] = (REAL)sqrt((double)square) / root + eps;
#endif
        own[i] = g, u[i] = m[i];
    }
    if (c->cautious)
        mask(n, u, own);
    for (int i = 0; i < n; i++)
        p[i] = p[i] + (u[i] * step) / denom[i];
}

static FILE* output(const char* folder, const char* name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.bin", folder, name);
    FILE* file = fopen(path, "wb");
    if (!file)
        fail("cannot write", path);
    return file;
}

static void solve(const char* folder) {
    static Case c;
    read_case(&c, folder);
    if (strcmp(c.dtype, sizeof(REAL) == 4 ? "float32" : "float64"))
        fail("another dtype", folder);
    size_t n = (size_t)c.total;
    REAL *x = calloc(5 * n + 1, sizeof *x), *p = x, *g = x + n, *m = x + 2 * n, *v = x + 3 * n, *most = x + 4 * n;
    int count[MAX_PARAMETERS] = {0}, is_adam = !strcmp(c.optimizer, "Adam");
    char path[4096];
    snprintf(path, sizeof path, "%s/input.bin", folder);
    FILE *in = fopen(path, "rb"), *out = output(folder, "result"), *states[3] = {0};
    if (!in || fread(p, sizeof *p, n, in) != n)
        fail("cannot read", path);
    if (is_adam)
        states[0] = output(folder, "state.exp_avg"), states[1] = output(folder, "state.exp_avg_sq");
    if (is_adam && c.amsgrad)
        states[2] = output(folder, "state.max_exp_avg_sq");
    if (!is_adam && c.momentum != 0)
        states[0] = output(folder, "state.momentum_buffer");
    for (int step = 1; step <= c.steps; step++) {
        for (int i = 0; i < c.changes; i++)
            if (c.change_step[i] == step)
                set_hyper(&c, c.change_line[i]);
        if (fread(g, sizeof *g, n, in) != n)
            fail("too short", path);
        for (int i = 0, at = 0; i < c.parameters; at += c.size[i++]) {
            if (c.skip[step][i])
                continue;
            count[i]++;
            if (is_adam)
                adam(&c, c.size[i], p + at, g + at, m + at, v + at, most + at, count[i]);
            else
                sgd(&c, c.size[i], p + at, g + at, m + at, count[i]);
        }
        fwrite(p, sizeof *p, n, out);
        for (int i = 0; i < 3; i++)
            if (states[i])
                fwrite(m + (size_t)i * n, sizeof *m, n, states[i]);
    }
    fclose(in);
    fclose(out);
    for (int i = 0; i < 3; i++)
        if (states[i])
            fclose(states[i]);
    free(x);
}

int main(int count, char** folders) {
    for (int i = 1; i < count; i++)
        solve(folders[i]);
    return 0;
}
