/**
 * Splits a command line into words as Python's `shlex.split` does (POSIX mode), and expands nothing.
 *
 * Inside double quotes a backslash only escapes itself and the double quote, inside single quotes nothing; outside
 * it takes away the meaning of the next character, whatever that is.
 *
 * @throws Error for a quote that is not closed, or a backslash at the end
 */
export function splitWords(line: string): string[] {
  const words: string[] = [];
  // undefined between words: '' is a word that was quoted.
  let word: string | undefined;
  let quote = '';
  for (let at = 0; at < line.length; at += 1) {
    const char = line.charAt(at);
    if (char === '\\' && quote !== "'") {
      at += 1;
      if (at === line.length) throw new Error('No escaped character');
      const next = line.charAt(at);
      const literal = quote === '"' && next !== '"' && next !== '\\';
      word = (word ?? '') + (literal ? char : '') + next;
    } else if (quote !== '') {
      if (char === quote) quote = '';
      else word = (word ?? '') + char;
    } else if (char === '"' || char === "'") {
      quote = char;
      word ??= '';
    } else if (' \t\r\n'.includes(char)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else {
      word = (word ?? '') + char;
    }
  }
  if (quote !== '') throw new Error('No closing quotation');
  if (word !== undefined) words.push(word);
  return words;
}
