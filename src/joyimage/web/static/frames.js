/** Times between frames as numbers to judge by. Pure functions. */

const LATE = 1.5; // of a frame's own time

/** @param {number[]} values At least one. */
export function median(values) {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/**
 * Summarize times between frames.
 *
 * @param {number[]} intervals Ms, at least one.
 * @param {number} [wanted] Frames per second.
 */
export function summarize(intervals, wanted = 60) {
  const frame = 1000 / wanted;
  const sorted = [...intervals].sort((one, other) => one - other);
  const total = sorted.reduce((sum, one) => sum + one, 0);
  return {
    frames_per_second: Number(((1000 * sorted.length) / total).toFixed(1)),
    median_ms: Number(median(sorted).toFixed(1)),
    slowest_5_percent_ms: Number(sorted[Math.min(sorted.length - 1, Math.floor(0.95 * sorted.length))].toFixed(1)),
    late_frames: sorted.filter((one) => one > LATE * frame).length,
    num_frames: sorted.length,
  };
}
