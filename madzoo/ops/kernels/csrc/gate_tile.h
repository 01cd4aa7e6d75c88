/* The gated mean of two sequences, (x + y) / 2 * SiLU(z), and its derivative, each in one pass over memory.
 * Included after scan_chunk.h. */

/* Numbers of the same channels and positions. */
typedef struct {
    VEC x, y, z, grad_out;
} NAME(gate_inputs);

typedef struct {
    VEC first, second; /* the output and nothing; or the gradients of x (and of y, the same) and of z */
} NAME(gate_outputs);

static inline __attribute__((always_inline)) NAME(gate_outputs) NAME(gate)(const int back, NAME(gate_inputs) in) {
    VEC sigmoid = NAME(sigmoid)(in.z), half_gate = SET((REAL)0.5) * in.z * sigmoid;
    if (!back) return (NAME(gate_outputs)){(in.x + in.y) * half_gate, SET(0)};
    VEC slope = sigmoid * (SET(1) + in.z * (SET(1) - sigmoid)); /* of SiLU */
    return (NAME(gate_outputs)){in.grad_out * half_gate, in.grad_out * (in.x + in.y) * SET((REAL)0.5) * slope};
}

/* Channels side by side in memory, and as many as fill whole vectors: a position is read from one end to the other. */
static int NAME(gate_is_simple)(const int back, const madzoo_gate_args *a) {
    const madzoo_sequence *sequences[] = {&a->x, &a->y, &a->z, &a->out, &a->grad_out, &a->grad_x, &a->grad_z};
    for (int i = 0; i < 7; i++)
        if ((back ? i != 3 : i < 4) && sequences[i]->channel != 1) return 0;
    return a->channels % LANES == 0;
}

static inline __attribute__((always_inline)) void NAME(gate_rows)(const int back, const madzoo_gate_args *a, int64_t batch,
                                                                  int64_t start, int64_t end) {
    NAME(place) p = {batch, 0, 0, LANES};
    for (int64_t t = start; t < end; t++) {
        const REAL *x = NAME(at)(&a->x, &p, t), *y = NAME(at)(&a->y, &p, t), *z = NAME(at)(&a->z, &p, t);
        const REAL *grad_out = back ? NAME(at)(&a->grad_out, &p, t) : x;
        REAL *first = NAME(at)(back ? &a->grad_x : &a->out, &p, t), *second = back ? NAME(at)(&a->grad_z, &p, t) : first;
        for (int64_t i = 0; i < a->channels; i += LANES) {
            NAME(gate_inputs) in = {LOAD(x + i), LOAD(y + i), LOAD(z + i), LOAD(grad_out + i)};
            NAME(gate_outputs) out = NAME(gate)(back, in);
            STORE(first + i, out.first);
            if (back) STORE(second + i, out.second);
        }
    }
}

static inline __attribute__((always_inline)) void NAME(gate_blocks)(const int back, const madzoo_gate_args *a,
                                                                    int64_t batch, int64_t start, int64_t end) {
    const madzoo_sequence *to = back ? &a->grad_x : &a->out;
    for (int64_t channel = 0; channel < a->channels; channel += LANES) {
        int lanes = a->channels - channel < LANES ? (int)(a->channels - channel) : LANES;
        NAME(place) p = {batch, 0, channel, lanes};
        for (int64_t t = start; t < end; t += MADZOO_CHUNK) {
            int steps = end - t < MADZOO_CHUNK ? (int)(end - t) : MADZOO_CHUNK;
            VEC x[MADZOO_CHUNK], y[MADZOO_CHUNK], z[MADZOO_CHUNK], g[MADZOO_CHUNK];
            NAME(load_block)(x, NAME(at)(&a->x, &p, t), a->x.channel, a->x.position, lanes, steps);
            NAME(load_block)(y, NAME(at)(&a->y, &p, t), a->y.channel, a->y.position, lanes, steps);
            NAME(load_block)(z, NAME(at)(&a->z, &p, t), a->z.channel, a->z.position, lanes, steps);
            if (back)
                NAME(load_block)(g, NAME(at)(&a->grad_out, &p, t), a->grad_out.channel, a->grad_out.position, lanes, steps);
            for (int i = 0; i < steps; i++) {
                NAME(gate_outputs) out = NAME(gate)(back, (NAME(gate_inputs)){x[i], y[i], z[i], back ? g[i] : x[i]});
                x[i] = out.first, z[i] = out.second;
            }
            NAME(store_block)(NAME(at)(to, &p, t), x, to->channel, to->position, lanes, steps);
            if (back) NAME(store_block)(NAME(at)(&a->grad_z, &p, t), z, a->grad_z.channel, a->grad_z.position, lanes, steps);
        }
    }
}

static inline __attribute__((always_inline)) void NAME(gate_work)(const int back, madzoo_job *job) {
    const madzoo_gate_args *a = job->args;
    int64_t panels = (a->length + MADZOO_PANEL - 1) / MADZOO_PANEL, unit;
    int simple = NAME(gate_is_simple)(back, a);
    uint64_t mode = madzoo_flush_denormals();
    while ((unit = madzoo_next(job)) < a->batch * panels) {
        int64_t start = unit % panels * MADZOO_PANEL;
        int64_t end = start + MADZOO_PANEL < a->length ? start + MADZOO_PANEL : a->length;
        if (simple)
            NAME(gate_rows)(back, a, unit / panels, start, end);
        else
            NAME(gate_blocks)(back, a, unit / panels, start, end);
    }
    madzoo_restore_denormals(mode);
}

static void NAME(gate_worker)(void *job) { NAME(gate_work)(0, job); }

static void NAME(ungate_worker)(void *job) { NAME(gate_work)(1, job); }
