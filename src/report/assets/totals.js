// @ts-check
// Sums over the tree of stacks: what lies below a node, and what passes through a function, file or module, where each
// stack counts once however often it comes through.

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./range.js").Sums} Sums */

/**
 * A node's own sums and those of all below it.
 * @param {Profile} profile
 * @param {Sums} own by node
 * @returns {Sums} by node
 */
export function subtreeSums(profile, own) {
  const bytes = own.bytes.slice();
  const count = own.count.slice();
  for (let node = profile.nodes - 1; node > 0; node -= 1) {
    bytes[profile.parent[node]] += bytes[node];
    count[profile.parent[node]] += count[node];
  }
  return own.base ? { bytes, count, base: subtreeSums(profile, own.base) } : { bytes, count };
}

/**
 * One flag per node: whether no node above it has the same key.
 * @param {Profile} profile
 * @param {ArrayLike<number>} keyOfFrame
 * @param {number} nKeys
 * @returns {Uint8Array}
 */
export function outermost(profile, keyOfFrame, nKeys) {
  const flags = new Uint8Array(profile.nodes);
  // For each key, where the subtree ends of the node that has it now.
  const until = new Uint32Array(nKeys);
  for (let node = 0; node < profile.nodes; node += 1) {
    const key = keyOfFrame[profile.frame[node]];
    if (node < until[key]) continue;
    flags[node] = 1;
    until[key] = profile.end[node];
  }
  return flags;
}

/**
 * One flag per node: the outermost calls of a function.
 * @param {Profile} profile
 * @param {number} root a frame of the function
 * @returns {Uint8Array}
 */
export function outermostCalls(profile, root) {
  const { functionOf, frame, nodes } = profile;
  const calls = outermost(profile, functionOf, functionOf.length);
  for (let node = 0; node < nodes; node += 1) if (functionOf[frame[node]] !== functionOf[root]) calls[node] = 0;
  return calls;
}

/**
 * What passes through each key.
 * @param {Profile} profile
 * @param {Sums} below as `subtreeSums` gives it
 * @param {ArrayLike<number>} keyOfFrame
 * @param {number} nKeys
 * @returns {Sums} by key
 */
export function sumsThrough(profile, below, keyOfFrame, nKeys) {
  const sums = { bytes: new Float64Array(nKeys), count: new Float64Array(nKeys) };
  const isFirst = outermost(profile, keyOfFrame, nKeys);
  for (let node = 0; node < profile.nodes; node += 1) {
    if (!isFirst[node]) continue;
    const key = keyOfFrame[profile.frame[node]];
    sums.bytes[key] += below.bytes[node];
    sums.count[key] += below.count[node];
  }
  return sums;
}

/**
 * What each key's frames allocated themselves.
 * @param {Profile} profile
 * @param {Sums} own by node
 * @param {ArrayLike<number>} keyOfFrame
 * @param {number} nKeys
 * @returns {Sums} by key
 */
export function sumsIn(profile, own, keyOfFrame, nKeys) {
  const sums = { bytes: new Float64Array(nKeys), count: new Float64Array(nKeys) };
  for (let node = 0; node < profile.nodes; node += 1) {
    const key = keyOfFrame[profile.frame[node]];
    sums.bytes[key] += own.bytes[node];
    sums.count[key] += own.count[node];
  }
  return sums;
}
