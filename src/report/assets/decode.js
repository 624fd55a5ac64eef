// @ts-check
// The page's data as it travels: base64 of deflated columns. What the columns mean is the business of `profile.js`.
//
// The inflated bytes are the length of a JSON text (4 bytes), the text, and the columns one behind the other, each a
// run of LEB128 numbers. A "signed" column holds zigzag numbers, a "delta" column zigzag differences to the one before.

/**
 * @typedef {object} Facts
 * @property {string} command
 * @property {string[]} argv
 * @property {string} cwd
 * @property {number | null} pid
 * @property {{version: string, allocator: string, stacks: boolean}[]} pythons
 * @property {number | null} start_unix_millis
 * @property {number | null} duration_nanos
 * @property {string | null} end
 * @property {number} events
 * @property {number | null} peak_bytes
 * @property {number | null} peak_rss_bytes
 * @property {boolean} python_allocators
 * @property {string} recorded_by
 * @property {string} made_by
 * @property {number} lost
 * @property {string[]} notices
 * @property {number} changed_files
 */

/**
 * A moment with a name, or where the recording was paused or resumed.
 * @typedef {{nanos: number, name: string, is_named: boolean}} Mark
 */

/** @typedef {"peak" | "leaks" | "churn" | "temporary"} Tab */

/**
 * What differs between two recordings: of how many processes the first consists, whether lines are told apart, and
 * whether shares are compared and not amounts.
 * @typedef {{n_base: number, by_line: boolean, normalised: boolean}} Compares
 */

/**
 * @typedef {object} Header
 * @property {{tab: Tab, inverted: boolean, split_threads: boolean, temporal: boolean, range: [number, number] | null, table: boolean, compares: Compares | null}} open
 * @property {Tab[]} tabs
 * @property {number | null} temporary_threshold
 * @property {boolean} is_aggregated only the peak and the leaks of the whole time are known
 * @property {{facts: Facts, threads: {number: number, os_tid: number, name: string}[], marks: Mark[]}[]} processes
 * @property {string[]} strings
 * @property {string[]} allocators
 * @property {number[]} size_classes upper bounds; the last class has none
 * @property {number} n_buckets
 * @property {number} start_nanos
 * @property {number} bucket_nanos
 * @property {{nodes: number, bytes: number, share: number} | null} folded
 * @property {{max_nodes?: number, budget_bytes?: number, threshold?: number, bucket_nanos?: number}} limits
 * @property {[string, number, number, "plain" | "delta" | "signed"][]} columns
 */

/** @typedef {{header: Header, columns: Map<string, Float64Array>}} Data */

/**
 * The bytes behind the base64 text of the page.
 * @param {string} base64
 * @returns {Promise<Uint8Array>}
 */
export async function inflate(base64) {
  const packed = Uint8Array.from(atob(base64.trim()), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * @param {Uint8Array} bytes
 * @returns {Data}
 */
export function decode(bytes) {
  const length = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0, true);
  /** @type {Header} */
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const columns = new Map();
  let at = 4 + length;
  for (const [name, nValues, nBytes, encoding] of header.columns) {
    columns.set(name, numbersOf(bytes.subarray(at, at + nBytes), nValues, encoding));
    at += nBytes;
  }
  return { header, columns };
}

/**
 * @param {Uint8Array} bytes
 * @param {number} nValues
 * @param {"plain" | "delta" | "signed"} encoding
 * @returns {Float64Array}
 */
function numbersOf(bytes, nValues, encoding) {
  const values = new Float64Array(nValues);
  let at = 0;
  let before = 0;
  for (let index = 0; index < nValues; index += 1) {
    let byte = bytes[at++];
    let value = byte & 127;
    // By products and not by shifts, which end at 32 bits.
    for (let unit = 128; byte > 127; unit *= 128) {
      byte = bytes[at++];
      value += (byte & 127) * unit;
    }
    if (encoding !== "plain") {
      const half = Math.floor(value / 2);
      value = before + (value % 2 === 0 ? half : -half - 1);
      if (encoding === "delta") before = value;
    }
    values[index] = value;
  }
  return values;
}
