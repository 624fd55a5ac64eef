// @ts-check
// The colours of frames and of the time line, for both themes.
//
// Kinds of code are told apart by blue against orange and by lightness, which survive every common form of colour
// blindness; a search match is set apart by lightness and by fading everything else.

/** Kinds of frames; the numbers are those of the data. */
export const Kind = { project: 0, library: 1, standard: 2, unknown: 3, other: 4, root: 5, native: 6 };

/**
 * Kinds of code in the order of the legend.
 * @type {{kind: number, label: string, title: string}[]}
 */
export const LEGEND = [
  { kind: Kind.project, label: "Your code", title: "the script and its own modules" },
  { kind: Kind.library, label: "Libraries", title: "installed packages (site-packages, dist-packages)" },
  { kind: Kind.standard, label: "Standard library", title: "modules that come with Python" },
  { kind: Kind.native, label: "Native", title: "C, C++, Rust and Cython, called by Python" },
  { kind: Kind.unknown, label: "No Python stack", title: "allocated where no Python code was running" },
];

/**
 * @typedef {object} Theme
 * @property {[number, number, number][]} kinds hue, saturation and lightness of each kind
 * @property {number} spread how far the lightness of functions of one kind differs, so that neighbours part
 * @property {string} text
 * @property {string} muted
 * @property {string} background
 * @property {{more: [number, number], less: [number, number], same: number, full: number}} change hue and saturation of what grew and what shrank, and the lightness of no change and of all
 * @property {string} tiny what stands for frames too narrow to draw
 * @property {string} match
 * @property {string} matchText
 * @property {string} ring
 * @property {string} hover
 * @property {number} fade how much of a frame's colour is left while others are searched for
 * @property {number} above how much of it is left above the zoomed frame
 * @property {string} axis text of the time line
 * @property {string} grid
 * @property {string} heapFill
 * @property {Record<string, string>} lines of the time line
 * @property {Record<string, string>} areas of the resident set's parts
 */

/** @type {{light: Theme, dark: Theme}} */
export const THEMES = {
  light: {
    kinds: [
      [34, 92, 72],
      [211, 66, 80],
      [215, 18, 88],
      [0, 0, 74],
      [0, 0, 91],
      [220, 14, 93],
      [168, 34, 74],
    ],
    spread: 5,
    text: "#1c2129",
    muted: "rgba(28, 33, 41, 0.62)",
    background: "#ffffff",
    change: { more: [8, 82], less: [214, 72], same: 93, full: 68 },
    tiny: "#d9dde3",
    match: "#e78fc1",
    matchText: "#2b0a1d",
    ring: "#1256c4",
    hover: "rgba(20, 30, 50, 0.55)",
    fade: 0.28,
    above: 0.5,
    axis: "#5c6672",
    grid: "#eceff2",
    heapFill: "rgba(216, 130, 20, 0.16)",
    lines: { heap: "#c26a00", rss: "#1256c4" },
    areas: { live: "#f0b45c", arenas: "#8cbcec", slack: "#4a7ebf", files: "#b9c3cf", unaccounted: "#e6e9ed" },
  },
  dark: {
    kinds: [
      [30, 66, 40],
      [212, 46, 37],
      [215, 13, 29],
      [0, 0, 41],
      [0, 0, 22],
      [218, 12, 22],
      [172, 34, 30],
    ],
    spread: 4,
    text: "#f2f4f8",
    muted: "rgba(242, 244, 248, 0.66)",
    background: "#14171c",
    change: { more: [6, 58], less: [214, 58], same: 24, full: 44 },
    tiny: "#333942",
    match: "#a93c80",
    matchText: "#ffffff",
    ring: "#8fbcff",
    hover: "rgba(255, 255, 255, 0.7)",
    fade: 0.35,
    above: 0.5,
    axis: "#9aa5b3",
    grid: "#23282f",
    heapFill: "rgba(240, 160, 60, 0.16)",
    lines: { heap: "#f0a94a", rss: "#8fbcff" },
    areas: { live: "#b9772a", arenas: "#3f6ea3", slack: "#274c7d", files: "#566170", unaccounted: "#333a44" },
  },
};

/**
 * The colour of every frame: that of its kind, a little lighter or darker by its function's name.
 * @param {Theme} theme
 * @param {ArrayLike<number>} kindOfFrame
 * @param {(frame: number) => string} nameOfFrame
 * @returns {string[]}
 */
export function frameColours(theme, kindOfFrame, nameOfFrame) {
  const colours = new Array(kindOfFrame.length);
  for (let frame = 0; frame < kindOfFrame.length; frame += 1) {
    const kind = kindOfFrame[frame];
    const [hue, saturation, lightness] = theme.kinds[kind];
    const varied = kind === Kind.other || kind === Kind.root ? 0 : (nameHash(nameOfFrame(frame)) - 0.5) * 2 * theme.spread;
    colours[frame] = `hsl(${hue} ${saturation}% ${(lightness + varied).toFixed(1)}%)`;
  }
  return colours;
}

/**
 * @param {Theme} theme
 * @param {number} kind
 * @returns {string}
 */
export function kindColour(theme, kind) {
  const [hue, saturation, lightness] = theme.kinds[kind];
  return `hsl(${hue} ${saturation}% ${lightness}%)`;
}

/**
 * A number in [0, 1) that stays the same for a name, in every page.
 * @param {string} name
 * @returns {number}
 */
function nameHash(name) {
  let hash = 2166136261;
  for (let i = 0; i < name.length; i += 1) hash = Math.imul(hash ^ name.charCodeAt(i), 16777619);
  return (hash >>> 0) / 4294967296;
}
