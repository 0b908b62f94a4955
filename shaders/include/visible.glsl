// Which keys a row sees, and how its keys are cut into chunks at fixed absolute positions. It knows no cache.
//   local layer: positions max(0, p - window + 1) .. p;  global layer (window 0): 0 .. p.
//   Chunk c holds positions [c CHUNK, (c + 1) CHUNK). A row's partial results are stored from its first chunk on.
// Needs the constant CHUNK.
#ifndef VISIBLE_GLSL
#define VISIBLE_GLSL
uint first_visible(uint position, uint window) {
    return window != 0u && position >= window ? position - window + 1u : 0u;
}

uint first_chunk(uint position, uint window) { return first_visible(position, window) / CHUNK; }

uint last_chunk(uint position) { return position / CHUNK; }
#endif
