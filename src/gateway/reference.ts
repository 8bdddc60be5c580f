/**
 * The OpenAPI document as one page of HTML: no script, no other host, its style within. What comes from the document
 * is escaped wherever it stands, since descriptions of runtimes or routes may one day be an administrator's.
 */
import { hash } from 'node:crypto';
import type { ErrorRow } from '../protocol/errors.ts';
import type { Answer, Content, OpenApi, Operation, Parameter } from './openapi.ts';

const STYLE = `
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: light-dark(#0b57d0, #8ab4f8) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }
code, pre { font: 0.9em/1.5 ui-monospace, monospace }
pre { background: var(--soft); padding: 0.75rem; overflow-x: auto; border-radius: 4px }
a { color: var(--accent) }
h2, h3 { border-top: 1px solid var(--line); padding-top: 1rem; scroll-margin-top: 0 }
h3 code { font-size: 1em } h3 a { text-decoration: none }
.method { font-weight: 700; color: var(--accent) }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.75rem 0.3rem 0; border-bottom: 1px solid var(--line) }
nav ul { columns: 2 18rem; padding-left: 1.2rem }
summary { cursor: pointer }
`;

/** For the header `content-security-policy`: nothing is loaded, nothing runs, no other page shows it in itself. */
export const REFERENCE_POLICY = [
  "default-src 'none'",
  `style-src 'sha256-${hash('sha256', STYLE, 'base64')}'`,
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

/** HTML that is safe to put into a page as it is. */
class Html {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}
type Part = string | number | Html | readonly Part[];

/** A template in which every value is escaped that is not `Html` itself; its own indentation is left out. */
function html(strings: TemplateStringsArray, ...values: readonly Part[]): Html {
  const texts = strings.map((text) => text.replaceAll(/\n\s+/g, '\n'));
  return new Html(
    texts.map((text, index) => text + (index < values.length ? of(values[index]) : '')).join(''),
  );
}

function of(part: Part | undefined): string {
  if (part instanceof Html) return part.text;
  if (typeof part === 'object') return part.map(of).join('');
  return String(part ?? '').replace(/[&<>"']/g, (character) => `&#${String(character.charCodeAt(0))};`);
}

export function referencePage(document: OpenApi): string {
  const { info, tags, components } = document;
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
  const grouped = tags.map(({ name }) => ({
    name,
    members: operations.filter(({ operation }) => operation.tags.includes(name)),
  }));
  const page = html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>${info.title} ${info.version}: reference</title>
        ${new Html(`<style>${STYLE}</style>`)}
      </head>
      <body>
        <h1>${info.title} ${info.version}</h1>
        <p>${marked(info.description)}</p>
        <p>
          The same for programs: <a href="openapi.json">openapi.json</a> (OpenAPI 3.1). The token of the
          examples is in <code>$TOKEN</code>, the server’s address in <code>$NOX</code>.
        </p>
        <nav aria-label="Contents">
          <ul>
            ${grouped.map(
              ({ name, members }) =>
                html`<li>
                  <a href="#tag-${name}">${name}</a>
                  <ul>
                    ${members.map(
                      ({ path, method, operation }) =>
                        html`<li>
                          <a href="#${operation.operationId}">${method.toUpperCase()} ${path}</a>
                        </li>`,
                    )}
                  </ul>
                </li>`,
            )}
            <li><a href="#errors">errors</a></li>
            <li><a href="#schemas">schemas</a></li>
          </ul>
        </nav>
        <main>
          ${grouped.map(
            ({ name, members }) =>
              html`<section>
                <h2 id="tag-${name}">${name}</h2>
                ${members.map((each) => section(each))}
              </section>`,
          )}
          <section>
            <h2 id="errors">errors</h2>
            ${errorTable(document['x-nox-errors'])}
          </section>
          <section>
            <h2 id="schemas">schemas</h2>
            ${Object.entries(components.schemas).map(
              ([name, schema]) =>
                html`<details id="schema-${name}">
                  <summary><code>${name}</code></summary>
                  ${code(schema)}
                </details>`,
            )}
          </section>
        </main>
      </body>
    </html> `;
  return page.text;
}

interface Section {
  readonly path: string;
  readonly method: string;
  readonly operation: Operation;
}

function section({ path, method, operation }: Section): Html {
  const { operationId, summary, parameters, requestBody, responses } = operation;
  const scope = operation['x-nox-scope'];
  const token =
    scope === 'none'
      ? 'Needs no token.'
      : scope === 'any'
        ? 'Any token.'
        : html`Needs a token with the scope <code>${scope}</code>.`;
  return html`<article>
    <h3 id="${operationId}">
      <a href="#${operationId}"
        ><code><span class="method">${method.toUpperCase()}</span> ${path}</code></a
      >
    </h3>
    <p>${marked(summary)}. ${token}</p>
    ${parameters === undefined ? '' : parameterTable(parameters)}
    ${requestBody === undefined ? '' : html`<p>Body: ${contentLinks(requestBody.content)}</p>`}
    <pre>${curl(path, method, operation)}</pre>
    <ul>
      ${Object.entries(responses).map(([status, answer]) => html`<li>${answerLine(status, answer, operation)}</li>`)}
    </ul>
  </article> `;
}

function parameterTable(parameters: readonly Parameter[]): Html {
  return html`<div class="scroll">
    <table>
      <thead>
        <tr>
          <th>parameter</th>
          <th>in</th>
          <th>what</th>
        </tr>
      </thead>
      <tbody>
        ${parameters.map(
          ({ name, in: place, required, schema, description = '' }) =>
            html`<tr>
              <td><code>${name}</code>${required ? '' : ' (optional)'}</td>
              <td>${place}</td>
              <td>${marked(description)} <code>${JSON.stringify(schema)}</code></td>
            </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

function answerLine(status: string, { description, content }: Answer, operation: Operation): Html {
  const codes = operation['x-nox-errors'];
  const shown = codes.filter((each) => description.includes(`\`${each}\`:`));
  if (shown.length === 0)
    return html`<code>${status}</code>
      ${description}${content === undefined ? '' : html`: ${contentLinks(content)}`}`;
  return html`<code>${status}</code>
    ${shown.map((each, index) => html`${index === 0 ? '' : ', '}<a href="#error-${each}"><code>${each}</code></a>`)}`;
}

function contentLinks(content: Content): Html {
  const links = Object.entries(content).map(([media, { schema, 'x-nox-event': event }], index) => {
    const name = /^#\/components\/schemas\/(.+)$/.exec(
      JSON.stringify((event ?? schema)['$ref'] ?? '').slice(1, -1),
    )?.[1];
    const link =
      name === undefined
        ? ''
        : html` ${event === undefined ? '' : 'of '}<a href="#schema-${name}"><code>${name}</code></a>`;
    return html`${index === 0 ? '' : ', '}<code>${media}</code>${link}`;
  });
  return html`${links}`;
}

function errorTable(errors: Readonly<Record<string, ErrorRow>>): Html {
  return html`<div class="scroll">
    <table>
      <thead>
        <tr>
          <th>code</th>
          <th>status</th>
          <th>retry</th>
          <th>hint</th>
        </tr>
      </thead>
      <tbody>
        ${Object.entries(errors).map(
          ([name, { status, retry, hint }]) =>
            html`<tr id="error-${name}">
              <td><code>${name}</code></td>
              <td>${status}</td>
              <td>${retry ? 'yes' : 'no'}</td>
              <td>${marked(hint)}</td>
            </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

function curl(path: string, method: string, { security, requestBody }: Operation): string {
  const examples = Object.values(requestBody?.content ?? {}).flatMap((media) =>
    Object.values(media.examples ?? {}),
  );
  const media = Object.keys(requestBody?.content ?? {})[0];
  const lines = [
    `curl${method === 'get' ? '' : method === 'head' ? ' -I' : ` -X ${method.toUpperCase()}`} "$NOX${path}"`,
    ...(security.length === 0 ? [] : ['-H "Authorization: Bearer $TOKEN"']),
  ];
  if (media === 'multipart/form-data') return shell([...lines, '-F f=@FILE']);
  if (media !== undefined && media !== 'application/json')
    return shell([...lines, `-H 'Content-Type: ${media}'`, '-T FILE']);
  if (examples.length === 0) return shell(lines);
  return examples
    .map(({ value }) => shell([...lines, `-d '${JSON.stringify(value).replaceAll("'", `'\\''`)}'`]))
    .join('\n\n');
}

const shell = (words: readonly string[]): string => words.join(' \\\n  ');
const code = (value: unknown): Html => html`<pre>${JSON.stringify(value, null, 2)}</pre>`;

/** Text in which `backquotes` mark code. */
function marked(text: string): Html {
  return html`${text.split('`').map((part, index) => (index % 2 === 1 ? html`<code>${part}</code>` : part))}`;
}
