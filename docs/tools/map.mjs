// Draws the world map that stands in dashboard.html, and puts it there. Needed only to draw it anew:
//
//   npm pack world-atlas@2 && tar xzf world-atlas-2.*.tgz && node docs/tools/map.mjs package/countries-110m.json dashboard.html
//
// The countries are Natural Earth's (public domain), at 1:110 million, as TopoJSON. They are projected by Equal Earth, whose areas
// are true, onto a grid of whole numbers that is WIDTH wide; a line to the next point is two small numbers. The world is cut at 169°
// west, in the Bering Strait, so that Russia stays in one piece. Antarctica is left out.
// Countries come under their two letters of ISO 3166-1. Three have no number there: of these Kosovo has letters in common use.
import {readFileSync, writeFileSync} from 'node:fs';

const WIDTH = 900, TOLERANCE = 1, MIDDLE = 11, SOUTH = -56;   // degrees; below lies nothing but ice
const [, , source, page] = process.argv;
const world = JSON.parse(readFileSync(source, 'utf8'));

/** Equal Earth, by Šavrič, Patterson and Jenny (2018): degrees to a plane about 5.4 wide. */
function project([longitude, latitude]) {
  const [a, b, c, d] = [1.340264, -0.081106, 0.000893, 0.003796], radians = Math.PI / 180, root = Math.sqrt(3) / 2;
  const t = Math.asin(root * Math.sin(latitude * radians)), t2 = t * t, t6 = t2 ** 3;
  const x = longitude * radians * Math.cos(t) / (root * (a + 3 * b * t2 + t6 * (7 * c + 9 * d * t2)));
  return [x, t * (a + b * t2 + t6 * (c + d * t2))];
}

const [edge] = project([180, 0]), [, top] = project([0, 84]), [, bottom] = project([0, SOUTH]), scale = WIDTH / 2 / edge;
const height = Math.round((top - bottom) * scale);
const exact = point => { const [x, y] = project(point); return [x * scale + WIDTH / 2, (top - y) * scale]; };
const place = point => exact(point).map(Math.round);

/** Without the points that lie nearer to the line between their neighbours than can be seen, by Douglas and Peucker (1973). */
function simplify(points) {
  if (points.length < 3) return points;
  const [[ax, ay], [bx, by]] = [points[0], points.at(-1)].map(exact), length = Math.hypot(bx - ax, by - ay);
  const away = points.map(exact).map(([x, y]) => length ? Math.abs((bx - ax) * (ay - y) - (ax - x) * (by - ay)) / length : Math.hypot(x - ax, y - ay));
  const far = away.indexOf(Math.max(...away.slice(1, -1)), 1);
  if (away[far] < TOLERANCE) return [points[0], points.at(-1)];
  return [...simplify(points.slice(0, far + 1)), ...simplify(points.slice(far)).slice(1)];
}

/** The longitudes of a ring as degrees from the middle of the map, none far from the one before. */
function unwrap(ring) {
  let before = null;
  return ring.map(([longitude, latitude]) => {
    const turned = longitude - MIDDLE, around = before === null ? 0 : before;
    before = turned + 360 * Math.round((around - turned) / 360);
    return [before, latitude];
  });
}

/** The arcs of the topology: each point is told from the one before, in steps of a grid. What two countries share is simplified once. */
const arcs = world.arcs.map(arc => {
  const {scale: [width, height], translate: [left, low]} = world.transform;
  let x = 0, y = 0;
  return simplify(arc.map(([dx, dy]) => [(x += dx) * width + left, (y += dy) * height + low]));
});

const ringOf = indexes => indexes.flatMap((index, i) => {
  const arc = index < 0 ? [...arcs[~index]].reverse() : arcs[index];
  return i ? arc.slice(1) : arc;
});

/** The doubled area of a ring. */
const areaOf = points => Math.abs(points.reduce((sum, [x, y], i) => { const [px, py] = points.at(i - 1); return sum + px * y - x * py; }, 0));

/** A ring as a path; "" where it is a dot, unless that is all there is of a country. */
function pathOf(ring, i, rings) {
  const points = unwrap(ring).map(place).filter(([x, y], i, all) => !i || x !== all[i - 1][0] || y !== all[i - 1][1]);
  if (points.length > 1 && points[0].join() === points.at(-1).join()) points.pop();
  if (points.length < 3 || (areaOf(points) < 6 && rings.length > 1)) return '';
  const steps = points.slice(1).map(([x, y], i) => `${x - points[i][0]},${y - points[i][1]}`);
  return `M${points[0].join()}l${steps.join(' ')}z`.replaceAll(',-', '-').replaceAll(' -', '-');
}

/** The two letters that belong to a number, as the language tags of Unicode know them. */
function lettersOf({id, properties: {name}}) {
  if (name === 'Kosovo') return 'XK';
  return id ? new Intl.Locale(`und-${id}`).region : '';
}

const paths = world.objects.countries.geometries.flatMap(country => {
  const letters = lettersOf(country), polygons = country.type === 'Polygon' ? [country.arcs] : country.arcs;
  const path = polygons.flat().map(ringOf).map(pathOf).join('');
  return letters === 'AQ' || !path ? [] : [[letters, path]];
}).sort();
const lines = paths.map(([letters, path]) => `    <path${letters && ` data-key="${letters}"`} d="${path}"/>`);
const drawing = `<template id="map-template">\n  <svg viewBox="0 0 ${WIDTH} ${height}">\n${lines.join('\n')}\n  </svg>\n</template>`;
const before = readFileSync(page, 'utf8'), after = before.replace(/<template id="map-template">.*?<\/template>/s, () => drawing);
writeFileSync(page, after);
console.log(`${paths.length} countries, ${drawing.length} bytes, ${WIDTH} × ${height}`);
