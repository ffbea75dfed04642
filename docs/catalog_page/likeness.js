// What a misspelled name means: the rules of autobackbone's names.py and likeness.py, with its own tables of words.

const LEAST = 0.7; // below it, names are not alike
const LONGEST = 100; // longer texts are like no name
const COST = { word: 0.02, number: 0.002, plain: 0.001 };
const ALIASES = new Map(Object.entries(DATA.names.aliases));
const SIZES = new Map(Object.entries(DATA.names.sizes));
const DINOV3_REPOS = new Map(Object.entries(DATA.names.dinov3));
const COMMON = new Set(DATA.names.common);

const isNumber = (word) => /^\d+$/.test(word);
const squash = (name) => name.toLowerCase().replace(/[-_\s]/g, "");

/** Remember the values of a function of one text, or of two. */
function remembered(compute) {
  const known = new Map();
  return (a, b = "") => {
    const key = `${a}\n${b}`;
    let value = known.get(key);
    if (value === undefined) {
      if (known.size > 200_000) known.clear();
      known.set(key, (value = compute(a, b)));
    }
    return value;
  };
}

/** Python's difflib.SequenceMatcher(None, a, b).ratio(). */
function sequenceRatio(a, b) {
  const places = new Map();
  for (let j = 0; j < b.length; j++) places.set(b[j], [...(places.get(b[j]) ?? []), j]);
  let matches = 0;
  const parts = [[0, a.length, 0, b.length]];
  while (parts.length) {
    const [startA, endA, startB, endB] = parts.pop();
    let [bestA, bestB, longest] = [startA, startB, 0];
    let lengths = new Map();
    for (let i = startA; i < endA; i++) {
      const next = new Map();
      for (const j of places.get(a[i]) ?? []) {
        if (j < startB) continue;
        if (j >= endB) break;
        const length = (lengths.get(j - 1) ?? 0) + 1;
        next.set(j, length);
        if (length > longest) [bestA, bestB, longest] = [i - length + 1, j - length + 1, length];
      }
      lengths = next;
    }
    if (!longest) continue;
    matches += longest;
    parts.push([startA, bestA, startB, bestB], [bestA + longest, endA, bestB + longest, endB]);
  }
  return a.length + b.length ? (2 * matches) / (a.length + b.length) : 1;
}

const ratio = remembered((word, other) => {
  if (isNumber(word) || word === other) return Number(word === other);
  return sequenceRatio(word, other);
});

/** Split a name into words and numbers; write sizes, widths and costs as timm does. */
const wordsOf = remembered((name) => {
  const text = name
    .toLowerCase()
    .replace(/(\d+)(?:[_.](\d))?gf/g, (_, whole, tenth) => ` ${String(10 * whole + Number(tenth ?? 0)).padStart(3, "0")} `)
    .replace(/(\d+)00mf/g, (_, hundreds) => ` ${String(Number(hundreds)).padStart(3, "0")} `)
    .replace(/(?<![v\d])(\d)[_.](\d\d?)(?!\d)/g, (_, one, part) => ` ${one}${part.padEnd(2, "0")} `);
  const words = text.match(/v\d+|vit(?=[tsblhg]\d)|[tsblhg](?=\d+plus)|[a-z]+?(?=v\d)|[a-z]+|\d+/g) ?? [];
  return words.map((word) => SIZES.get(word) ?? word);
});

const weightOf = (word) => (isNumber(word) ? 2 : word.length);
const costOf = (word) =>
  word === "100" ? COST.plain : isNumber(word) || COMMON.has(word) ? COST.number : COST.word;
const sum = (values) => values.reduce((total, value) => total + value, 0);

function likeness(words, others) {
  const byLetters = () => ratio(words.join(""), others.join(""));
  if (words.length === 1 && isNumber(words[0])) return byLetters();
  const unmatched = [...others];
  let byWords = 0;
  for (const word of words) {
    if (!unmatched.length) continue;
    const best = unmatched.reduce((best, other) => (ratio(word, other) > ratio(word, best) ? other : best));
    byWords += weightOf(word) * ratio(word, best);
    unmatched.splice(unmatched.indexOf(best), 1);
  }
  const score = byWords / sum(words.map(weightOf)) - sum(unmatched.map(costOf));
  return mayReach(words.join(""), others.join(""), Math.max(score, LEAST)) ? Math.max(byLetters(), score) : score;
}

/** Whether the ratio of two texts can be as high as this, going by the letters that they share. */
function mayReach(a, b, least) {
  if (isNumber(a)) return true;
  const left = new Map();
  for (const letter of b) left.set(letter, (left.get(letter) ?? 0) + 1);
  let shared = 0;
  for (const letter of a) {
    const count = left.get(letter) ?? 0;
    if (count) shared += 1;
    left.set(letter, count - 1);
  }
  return 2 * shared >= least * (a.length + b.length) - 1e-9;
}

const spellings = new Map(backbones.map(({ name }) => [name, [name]]));
for (const [alias, meant] of ALIASES) spellings.get(meant)?.push(alias);

/** The names that are most like a text, best first. */
function mostLike(text, count) {
  const words = wordsOf(text);
  if (!words.length || text.length > LONGEST) return [];
  const scored = [...spellings].map(([name, several]) => ({
    name,
    score: Math.max(...several.map((spelling) => likeness(words, wordsOf(spelling)))),
  }));
  const rounded = ({ score }) => Math.round(score * 1e6) / 1e6;
  return scored
    .filter(({ score }) => score >= LEAST)
    .sort((a, b) => rounded(b) - rounded(a) || a.name.length - b.name.length || byCode(a.name, b.name))
    .slice(0, count)
    .map(({ name }) => name);
}

const tagOf = (row, tag) => (row.source === "timm" ? tag.name.slice(row.name.length + 1) : null);
const tagsOf = (row) => row.tags.map((tag) => tagOf(row, tag)).filter(Boolean);

/** Tags of weights, those most like a text first. */
function nearestTags(text, tags) {
  const tag = text.toLowerCase();
  const key = (other) => [other.toLowerCase().startsWith(tag) ? 0 : 1, -ratio(tag, other.toLowerCase())];
  return [...tags].sort((a, b) => inOrder(key(a), key(b)));
}

/** As autobackbone's nearest_names. */
function nearestNames(text, count = 3) {
  const slash = text.lastIndexOf("/");
  const [owner, name] = [text.slice(0, Math.max(slash, 0)), text.slice(slash + 1)];
  const full = owner && isNumber(name) ? `${owner}-${name}` : name; // as in ViT-B/16
  const [stem, tag] = parted(full);
  const matches = mostLike(stem, count);
  if (!tag) return matches;
  const tagged = matches.flatMap((match) => {
    const near = nearestTags(tag, tagsOf(byName.get(match)));
    return near.length ? near.slice(0, count).map((each) => `${match}.${each}`) : [match];
  });
  return tagged.slice(0, count);
}

function parted(name) {
  const dot = name.indexOf(".");
  return dot < 0 ? [name, ""] : [name.slice(0, dot), name.slice(dot + 1)];
}

const timmNames = backbones.filter((row) => row.source === "timm").map((row) => row.name);
const bySquashed = lazily(() => {
  const found = new Map();
  for (const name of timmNames) found.set(squash(name), [...(found.get(squash(name)) ?? []), name]);
  return found;
});

/** The name that autobackbone takes a spelling for; null where it refuses it. */
function resolved(text) {
  if (text.startsWith("torchvision/")) {
    const row = architectureOf(text.slice("torchvision/".length));
    const tag = row && ["tv2_in1k", "tv_in1k"].find((tag) => tagsOf(row).includes(tag));
    return tag ? `${row.name}.${tag}` : null;
  }
  if (DINOV3_REPOS.has(text)) return text;
  const name = text.startsWith("timm/") ? text.slice("timm/".length) : text;
  if (/[/\\:]/.test(name) && !text.startsWith("timm/")) return null;
  const short = name.toLowerCase().replaceAll("-", "_");
  if (name === text && byName.get(short)?.source === "dinov3") return short;
  const [stem, tag] = parted(name);
  const row = architectureOf(stem);
  if (!row) return null;
  if (!tag) return row.name;
  const tags = tagsOf(row);
  const alike = tags.filter((other) => other.toLowerCase() === tag.toLowerCase());
  if (tags.includes(tag)) return `${row.name}.${tag}`;
  return alike.length === 1 ? `${row.name}.${alike[0]}` : null;
}

function architectureOf(stem) {
  if (byName.get(stem)?.source === "timm") return byName.get(stem);
  const key = squash(stem);
  if (byName.has(ALIASES.get(key))) return byName.get(ALIASES.get(key));
  const matches = bySquashed().get(key) ?? [];
  return matches.length === 1 ? byName.get(matches[0]) : null;
}
