// Work on many items, a limited number of them at a time.

/** Calls `work` for each item, `atOnce` at a time. Rejects with the first failure, and then begins no more. */
export async function inParallel(items, atOnce, work) {
  const left = [...items].values();
  let hasFailed = false;
  const lane = async () => {
    for (const item of left) {
      if (hasFailed) return;
      await work(item);
    }
  };
  const watched = () => lane().catch((error) => {
    hasFailed = true;
    throw error;
  }); // prettier-ignore
  await Promise.all(Array.from({ length: atOnce }, watched));
}

/** Returns the numbers from 1 to `count`. */
export function numbers(count) {
  return Array.from({ length: count }, (_, i) => i + 1);
}
