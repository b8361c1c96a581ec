/* The API reference, from the .d.ts files: what the entries export, and the types that these name. The files are tsc's own, so
 * their form is known: declarations stand in the first column, members are indented by four, comments are before both. */
import fs from 'node:fs';
import path from 'node:path';

/**
 * @typedef {{doc: string, text: string}} Item  A declaration or a member, and its comment without stars.
 * @typedef {Item & {name: string, kind: string, file: string}} Declaration
 */

/** @param {string} comment */
const withoutStars = (comment) =>
  comment
    .replace(/^\s*\/\*\*/, '')
    .replace(/\*\/\s*$/, '')
    .replace(/^ *\* ?/gm, '')
    .trim();

/** What stands in the first column of the lines, each with the comment before it. @param {string[]} lines @returns {Item[]} */
function items(lines) {
  /** @type {Item[]} */
  const found = [];
  let comment = '';
  let text = '';
  for (let line of lines) {
    if (!text && line.startsWith('/**')) comment = '';
    if (!text && (line.startsWith('/**') || (comment && !comment.includes('*/')))) {
      const end = line.indexOf('*/');
      comment += `${end < 0 ? line : line.slice(0, end + 2)}\n`;
      line = end < 0 ? '' : line.slice(end + 2).trimStart();
    }
    if (!text && !line.trim()) continue;
    text += `${line}\n`;
    const code = text.replace(/\/\*(?:(?!\*\/)[^])*\*\/|'[^']*'|"[^"]*"/g, '').replace(/=>/g, '');
    const depth = [...code].reduce((sum, c) => sum + ('{([<'.includes(c) ? 1 : '})]>'.includes(c) ? -1 : 0), 0);
    if (depth > 0 || !/[;}]\s*$/.test(line)) continue;
    found.push({ doc: withoutStars(comment), text: text.trim() });
    comment = text = '';
  }
  return found;
}

class Types {
  /** @type {Map<string, Map<string, Declaration>>} */ #files = new Map();

  /** @param {string} folder */
  constructor(folder) {
    this.folder = folder;
  }

  /** What a file knows by name. An import, a re-export or an alias is what it leads to. @param {string} file */
  of(file) {
    const known = this.#files.get(file);
    if (known) return known;
    /** @type {Map<string, Declaration>} */
    const found = new Map();
    this.#files.set(file, found);
    for (const { doc, text } of items(fs.readFileSync(path.join(this.folder, file), 'utf8').split('\n'))) {
      const [, list, from] = /^(?:export|import|import type) \{([^}]*)\} from '(\.[^']+)'/.exec(text) ?? [];
      for (const item of list?.split(',') ?? []) {
        const [name, as = name] = item.trim().split(' as ');
        const target = this.of(beside(file, from)).get(name);
        if (target) found.set(as, { ...target, name: as });
      }
      const [, kind, name] = /^(?:export )?(?:declare )?(function|class|const|type) ([\w$]+)/.exec(text) ?? [];
      if (!name) continue;
      const [, origin, there] = /=\s*import\(['"](\.[^'"]+)['"]\)\.(\w+);$/.exec(text) ?? [];
      const target = kind === 'type' && origin ? this.of(beside(file, origin)).get(there) : undefined;
      found.set(name, target ?? { name, kind, doc, text: text.replace(/^(export |declare )+/, ''), file });
    }
    return found;
  }

  /** @param {string} file */
  exportsOf(file) {
    const text = fs.readFileSync(path.join(this.folder, file), 'utf8');
    const imports = [...text.matchAll(/^import (?:type )?\{([^}]*)\}/gm)].flatMap(([, list]) => list.split(','));
    const imported = new Set(imports.map((name) => name.trim()));
    return [...this.of(file)].filter(([name]) => !imported.has(name)).map(([, declaration]) => declaration);
  }

  /** The types that a declaration names. @param {Declaration} declaration */
  namedBy(declaration) {
    const { kind, text, file } = declaration;
    const visible = kind === 'class' ? members(declaration).map((member) => member.text).join('\n') : text;
    const shown = visible.replace(/\/\*(?:(?!\*\/)[^])*\*\//g, '');
    const imported = [...shown.matchAll(/import\(['"](\.[^'"]+)['"]\)\.(\w+)/g)];
    const others = imported.map(([, from, name]) => this.of(beside(file, from)).get(name));
    const own = [...this.of(file).values()].filter(({ name }) => new RegExp(`(?<![.\\w'])${name}(?![\\w'])`).test(shown));
    return [...others, ...own].filter((declaration) => declaration !== undefined);
  }
}

/** What of a class is for its users. @param {Declaration} declaration */
function members({ text }) {
  const body = text.split('\n').slice(1, -1);
  const inner = /^(#private|constructor|private |static load)/;
  return items(body.map((line) => line.slice(4))).filter((member) => !inner.test(member.text));
}

/** @param {string} file @param {string} specifier */
const beside = (file, specifier) => path.posix.join(path.posix.dirname(file), specifier.replace(/\.js$/, '.d.ts'));

/** @param {string} text */
const code = (text) => {
  const clean = text
    .replace(/import\(['"][^'"]+['"]\)\./g, '')
    .replace(/^( {4})+/gm, (indent) => ' '.repeat(indent.length / 2))
    .replace(/\/\*\*\n *\* *([^\n]*)\n *\*\//g, '/** $1 */');
  return `\`\`\`ts\n${clean}\n\`\`\``;
};

/** A comment as Markdown: what it says, then its parameters that say more than a type. @param {string} doc */
function prose(doc) {
  const [body, ...tags] = `\n${doc}`.split(/\s(?=@(?:param|returns|template|type|implements|throws)\b)/);
  const params = tags.flatMap((tag) => {
    const untyped = tag.replace(/\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\} /, '');
    const [, name, says] = /^@param \[?([\w.$]+)\]? ?([^]*)$/.exec(untyped) ?? [];
    return says?.trim() ? [`- \`${name}\`: ${says.trim().replace(/\s+/g, ' ')}`] : [];
  });
  return [body.trim(), params.join('\n')].filter(Boolean).join('\n\n');
}

/** @param {Declaration} declaration */
function section(declaration) {
  const { name, kind, doc, text } = declaration;
  const parts = [`## ${name}`, prose(doc)];
  if (kind !== 'class') return [...parts, code(text)].filter(Boolean).join('\n\n');
  parts.push(code(text.split('\n', 1)[0].replace(/ \{$/, '')));
  for (const { doc: says, text: member } of members(declaration)) {
    const [, title] = /^(?:(?:get|set|static|readonly|async) )*(\[[^\]]+\]|[\w$]+)/.exec(member) ?? [];
    parts.push(`### ${name}.${title}`, prose(says), code(member));
  }
  return parts.filter(Boolean).join('\n\n');
}

/**
 * @param {string} folder of the .d.ts files
 * @param {string[]} entries in it
 * @returns {string} Markdown
 */
export function apiReference(folder, entries) {
  const types = new Types(folder);
  /** @type {Map<string, Declaration>} */
  const all = new Map();
  for (const entry of entries) for (const declaration of types.exportsOf(entry)) all.set(declaration.name, declaration);
  for (const declaration of all.values()) {
    for (const named of types.namedBy(declaration)) if (!all.has(named.name)) all.set(named.name, named);
  }
  const order = ['function', 'const', 'class', 'type'];
  const sorted = [...all.values()].sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind));
  const head = `# API reference

Made from the types by \`node tools/prepack.mjs\`; do not edit. The names are the same in Node.js and in browsers;
\`serve\` alone is of \`skipstone/server\`, in Node.js.

${sorted.map(({ name }) => `[${name}](#${name.toLowerCase()})`).join(' · ')}`;
  return `${[head, ...sorted.map(section)].join('\n\n')}\n`;
}
