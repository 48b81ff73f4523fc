// The picture with what was found in it. Coordinates are shares of the picture, as the server gives them.

const COLOURS = (
  "3fc0f2 f87103 a6d936 d66fe0 edb2bd 93a777 fcb52c fa618c a096c6 54dfbe 0fbd59 f69efe " +
  "c3ca96 b2c3f3 c68e85 ca932e 42b2ae 908ffe 92ac18 ed8ec0 7bc67b f6946d 49a2fe be9df7"
).split(" ").map((colour) => `#${colour}`);
const UNKNOWN = { width: 800, height: 600 }; // of a picture that this browser cannot show
const LARGEST = 8; // times a small picture is magnified
const COARSE = 3; // from where on its pixels are shown as they are
const MARGIN = 24; // of the stage, in pixels
const ABOVE = 215;
const SHARE = 0.3; // of the picture's width that a tag may have in any case
const MOST_LETTERS = 60;

export const colourOf = (index) => COLOURS[index % COLOURS.length];

// Draws all of it anew; `objects` are {box, polygon, label, score, colour}, one of them perhaps `chosen`.
export function draw(canvas, picture, objects, chosen) {
  const { width, height } = picture ?? UNKNOWN;
  const room = [(canvas.parentElement.clientWidth - MARGIN) / width, Math.max(200, window.innerHeight - ABOVE) / height];
  const scale = Math.min(...room, LARGEST);
  const unit = window.devicePixelRatio; // canvas pixels to one that is seen
  canvas.width = Math.max(1, Math.round(width * scale * unit));
  canvas.height = Math.max(1, Math.round(height * scale * unit));
  canvas.style.width = `${canvas.width / unit}px`;
  canvas.hidden = false;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = scale < COARSE;
  context.imageSmoothingQuality = "high";
  if (picture) context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  else nothing(context);
  for (const found of objects.toReversed()) outline(context, found, unit, chosen && found !== chosen);
  const tags = [];
  for (const found of chosen ? [chosen] : objects) tag(context, found, unit, tags);
}

function nothing(context) {
  context.fillStyle = "#8a90a0";
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
}

function outline(context, found, unit, faded) {
  const { width, height } = context.canvas;
  context.globalAlpha = faded ? 0.25 : 1;
  context.lineJoin = "round";
  const path = new Path2D();
  if (found.polygon?.length) {
    for (const part of found.polygon) trace(path, part, width, height);
    context.fillStyle = `${found.colour}59`;
    context.fill(path, "evenodd");
  } else {
    const { topX, topY, bottomX, bottomY } = found.box;
    path.rect(topX * width, topY * height, (bottomX - topX) * width, (bottomY - topY) * height);
  }
  context.strokeStyle = "#000000a0";
  context.lineWidth = 4 * unit;
  context.stroke(path);
  context.strokeStyle = found.colour;
  context.lineWidth = 2.5 * unit;
  context.stroke(path);
  context.globalAlpha = 1;
}

function trace(path, part, width, height) {
  for (let place = 0; place + 1 < part.length; place += 2) {
    path[place ? "lineTo" : "moveTo"](part[place] * width, part[place + 1] * height);
  }
  path.closePath();
}

// Objects come best first: a tag that would lie on another is left out, as the list beside the picture has them all.
function tag(context, found, unit, tags) {
  const { width, height } = context.canvas;
  const size = 13 * unit;
  context.font = `600 ${size}px system-ui, "DejaVu Sans", sans-serif`;
  const { topX, topY, bottomX } = found.box;
  const text = fitted(context, found, Math.max((bottomX - topX) * width, SHARE * width) - 10 * unit);
  const wide = context.measureText(text).width + 10 * unit;
  const tall = size + 7 * unit;
  const left = Math.max(0, Math.min(topX * width - 1.25 * unit, width - wide));
  const above = topY * height - tall;
  const top = Math.min(above >= 0 ? above : topY * height, height - tall);
  const isFree = ([x, y, right]) => left >= right || left + wide <= x || top >= y + tall || top + tall <= y;
  if (!tags.every(isFree)) return;
  tags.push([left, top, left + wide]);
  context.fillStyle = found.colour;
  context.beginPath();
  context.roundRect(left, top, wide, tall, 3 * unit);
  context.fill();
  context.fillStyle = "#000";
  context.textBaseline = "middle";
  context.fillText(text, left + 5 * unit, top + tall / 2 + 0.5 * unit);
}

// The label and the score; of a label that is too wide as much as there is room for.
function fitted(context, { label, score }, room) {
  const letters = [...label];
  const text = (kept) => `${letters.slice(0, kept).join("")}${kept < letters.length ? "…" : ""} ${score.toFixed(2)}`;
  let kept = Math.min(letters.length, MOST_LETTERS);
  while (kept > 1 && context.measureText(text(kept)).width > room) kept -= 1;
  return text(kept);
}
