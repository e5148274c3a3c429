/** Random inputs from a seed: property tests that fail the same way each time. */

/** @param {number} seed */
export function randomizer(seed) {
  let state = seed;
  // Source: mulberry32, a 32-bit generator in the public domain.
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return {
    next,
    between: (least, most) => least + next() * (most - least),
    whole: (least, most) => Math.floor(least + next() * (most - least + 1)),
    one: (values) => values[Math.floor(next() * values.length)],
  };
}

/** Call a test with many random numbers. @param {(random: ReturnType<typeof randomizer>) => void} test */
export function often(test, times = 500) {
  for (let seed = 1; seed <= times; seed += 1) test(randomizer(seed));
}
