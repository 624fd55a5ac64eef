// @ts-check
// A pen that writes SVG: as much of a canvas's pen as `paint.js` uses. Text is written as text, whatever it holds.

export class SvgPen {
  constructor() {
    /** @type {string[]} */
    this.parts = [];
    this.fillStyle = "";
    this.strokeStyle = "";
    this.lineWidth = 1;
    this.globalAlpha = 1;
    this.font = "";
    this.textBaseline = "middle";
    this.textAlign = "left";
    this.line = "";
    this.clips = 0;
    this.box = "";
    this.ruler = /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d"));
  }

  /** @param {string} text */
  measureText(text) {
    this.ruler.font = this.font;
    return this.ruler.measureText(text);
  }

  /** @param {number} x @param {number} y @param {number} width @param {number} height */
  fillRect(x, y, width, height) {
    const box = `x="${short(x)}" y="${short(y)}" width="${short(width)}" height="${short(height)}"`;
    this.parts.push(`<rect ${box} fill="${this.fillStyle}"${this.opacity()}/>`);
  }

  /** @param {string} text @param {number} x @param {number} y */
  fillText(text, x, y) {
    if (text === "") return;
    const where = `x="${short(x)}" y="${short(y)}"`;
    this.parts.push(`<text ${where} fill="${this.fillStyle}"${this.opacity()}>${escaped(text)}</text>`);
  }

  beginPath() {
    this.line = "";
  }

  /** @param {number} x @param {number} y */
  moveTo(x, y) {
    this.line += `M${short(x)} ${short(y)}`;
  }

  /** @param {number} x @param {number} y */
  lineTo(x, y) {
    this.line += `L${short(x)} ${short(y)}`;
  }

  /** @param {number} x @param {number} y @param {number} width @param {number} height */
  rect(x, y, width, height) {
    this.box = `<rect x="${short(x)}" y="${short(y)}" width="${short(width)}" height="${short(height)}"/>`;
  }

  clip() {
    this.clips += 1;
    const id = `clip${this.clips}`;
    this.parts.push(`<clipPath id="${id}">${this.box}</clipPath><g clip-path="url(#${id})">`);
  }

  stroke() {
    this.parts.push(`<path d="${this.line}" stroke="${this.strokeStyle}" stroke-width="${this.lineWidth}" fill="none"${this.opacity()}/>`);
  }

  save() {}

  // Every clip stands between a save and a restore.
  restore() {
    this.parts.push("</g>");
  }

  opacity() {
    return this.globalAlpha < 1 ? ` opacity="${this.globalAlpha}"` : "";
  }

  /**
   * The whole document.
   * @param {number} width
   * @param {number} height
   * @param {string} title
   */
  document(width, height, title) {
    const size = `width="${Math.ceil(width)}" height="${Math.ceil(height)}" viewBox="0 0 ${Math.ceil(width)} ${Math.ceil(height)}"`;
    const font = 'font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="12" dominant-baseline="middle"';
    return `<svg xmlns="http://www.w3.org/2000/svg" ${size} ${font} xml:space="preserve"><title>${escaped(title)}</title>\n${this.parts.join("\n")}\n</svg>\n`;
  }
}

/** @param {number} number */
const short = (number) => String(Math.round(number * 100) / 100);

/**
 * Text for XML, without the characters that it can't hold at all.
 * @param {string} text
 */
export function escaped(text) {
  return text
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd")
    .replace(/&/g, "&amp;")
    .replace(/</g, "&lt;")
    .replace(/>/g, "&gt;")
    .replace(/"/g, "&quot;");
}
