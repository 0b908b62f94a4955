// Walks a slice's groups with the weights of UNROLL of them on their way: a slot is read again as soon as it has been multiplied.
// Needs read_group(slot, g) and multiply_group(slot, g) of a class.
void multiply_slice(uint slice) {
    const uint last = push.groups - 1u;
    [[unroll]] for (uint slot = 0; slot < UNROLL; ++slot) read_group(slot, min(slice + slot * SLICES, last));
    uint g = slice;
    for (; g + (UNROLL - 1) * SLICES < push.groups; g += UNROLL * SLICES)
        [[unroll]] for (uint slot = 0; slot < UNROLL; ++slot) {
            multiply_group(slot, g + slot * SLICES);
            read_group(slot, min(g + (slot + UNROLL) * SLICES, last));
        }
    [[unroll]] for (uint slot = 0; slot < UNROLL; ++slot)
        if (g + slot * SLICES < push.groups) multiply_group(slot, g + slot * SLICES);
}
