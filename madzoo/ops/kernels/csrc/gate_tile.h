/* The gated mean of two sequences, (x + y) / 2 * SiLU(z), in one pass over memory. Included after scan_chunk.h. */

static inline VEC NAME(gate)(VEC x, VEC y, VEC z) { return (x + y) * SET((REAL)0.5) * (z * NAME(sigmoid)(z)); }

/* Channels side by side in memory, and as many as fill whole vectors: a position is read from one end to the other. */
static int NAME(gate_rows)(const madzoo_gate_args *a, int64_t batch, int64_t start, int64_t end) {
    if (a->x.channel != 1 || a->y.channel != 1 || a->z.channel != 1 || a->out.channel != 1 || a->channels % LANES)
        return 0;
    NAME(place) p = {batch, 0, 0, LANES};
    for (int64_t t = start; t < end; t++) {
        const REAL *x = NAME(at)(&a->x, &p, t), *y = NAME(at)(&a->y, &p, t), *z = NAME(at)(&a->z, &p, t);
        REAL *out = NAME(at)(&a->out, &p, t);
        for (int64_t i = 0; i < a->channels; i += LANES) STORE(out + i, NAME(gate)(LOAD(x + i), LOAD(y + i), LOAD(z + i)));
    }
    return 1;
}

static void NAME(gate_panel)(const madzoo_gate_args *a, int64_t batch, int64_t start) {
    int64_t end = start + MADZOO_PANEL < a->length ? start + MADZOO_PANEL : a->length;
    if (NAME(gate_rows)(a, batch, start, end)) return;
    for (int64_t channel = 0; channel < a->channels; channel += LANES) {
        int lanes = a->channels - channel < LANES ? (int)(a->channels - channel) : LANES;
        NAME(place) p = {batch, 0, channel, lanes};
        for (int64_t t = start; t < end; t += MADZOO_CHUNK) {
            int steps = end - t < MADZOO_CHUNK ? (int)(end - t) : MADZOO_CHUNK;
            VEC x[MADZOO_CHUNK], y[MADZOO_CHUNK], z[MADZOO_CHUNK];
            NAME(load_block)(x, NAME(at)(&a->x, &p, t), a->x.channel, a->x.position, lanes, steps);
            NAME(load_block)(y, NAME(at)(&a->y, &p, t), a->y.channel, a->y.position, lanes, steps);
            NAME(load_block)(z, NAME(at)(&a->z, &p, t), a->z.channel, a->z.position, lanes, steps);
            for (int i = 0; i < steps; i++) x[i] = NAME(gate)(x[i], y[i], z[i]);
            NAME(store_block)(NAME(at)(&a->out, &p, t), x, a->out.channel, a->out.position, lanes, steps);
        }
    }
}

static void NAME(gate_worker)(void *argument) {
    madzoo_job *job = argument;
    const madzoo_gate_args *a = job->args;
    int64_t panels = (a->length + MADZOO_PANEL - 1) / MADZOO_PANEL, unit;
    uint64_t mode = madzoo_flush_denormals();
    while ((unit = madzoo_next(job)) < a->batch * panels)
        NAME(gate_panel)(a, unit / panels, unit % panels * MADZOO_PANEL);
    madzoo_restore_denormals(mode);
}
