'use strict';
const $ = id => document.getElementById(id);
let info = null;
let running = null;  // AbortController of what runs

function fail(error) {
  const box = $('error');
  box.hidden = !error;
  box.textContent = error ? String(error.message || error) : '';
}

async function request(path, body, signal) {
  const response = await fetch(path, body === undefined ? {signal} : {
    method: 'POST', signal, headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)
  });
  if (!response.ok) {
    let text = response.status + ' ' + response.statusText;
    try { text = (await response.json()).error.message; } catch (ignored) {}
    throw new Error(text);
  }
  return response;
}

// Calls take(event) for every event of a stream.
async function stream(path, body, signal, take) {
  const response = await request(path, {...body, stream: true, stream_options: {include_usage: true}}, signal);
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let rest = '';
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    rest += decoder.decode(value, {stream: true});
    const parts = rest.split('\n\n');
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith('data: ') || part === 'data: [DONE]') continue;
      const event = JSON.parse(part.slice(6));
      if (event.error) throw new Error(event.error.message);
      take(event);
    }
  }
}

function bytes(count) {
  return count > 1e6 ? (count / 1e6).toFixed(2) + ' MB' : (count / 1e3).toFixed(1) + ' kB';
}

function showFigures(list, figures) {
  list.replaceChildren(...Object.entries(figures).map(([name, value]) => {
    const row = document.createElement('div'), term = document.createElement('dt'), data = document.createElement('dd');
    term.textContent = name;
    data.textContent = value;
    row.append(term, data);
    return row;
  }));
}

// Generates into a <pre> and a <dl>.
async function generate(body, isChat, text, figures, signal) {
  text.textContent = '';
  showFigures(figures, {});
  let event = null, usage = null;
  await stream(isChat ? '/v1/chat/completions' : '/v1/completions', body, signal, found => {
    event = found;
    if (found.usage) usage = found.usage;
    const choice = found.choices[0];
    if (!choice) return;
    text.append(isChat ? choice.delta.content || '' : choice.text);
  });
  if (!usage) return;
  const seconds = usage.decode_seconds;
  showFigures(figures, {
    'precision': event.precision,
    'tokens': usage.completion_tokens,
    'tokens/s': seconds > 0 ? ((usage.completion_tokens - 1) / seconds).toFixed(1) : '–',
    'first token': (1000 * usage.first_token_seconds).toFixed(1) + ' ms',
    'K/V': bytes(usage.kv_bytes) + ', ' + event.kv_bits + ' bits',
    'from cache': usage.prompt_tokens_details.cached_tokens + ' of ' + usage.prompt_tokens + ' prompt tokens'
  });
}

function withPrecision(body, value) {
  if (value === 'custom') body.precision = plan();
  else if (value) body.precision = value;
  return body;
}

// Runs one thing at a time; halt is its stop button.
async function run(button, halt, work) {
  if (running) running.abort();
  const mine = running = new AbortController();
  fail(null);
  button.disabled = true;
  if (halt) halt.disabled = false;
  try {
    await work(mine.signal);
  } catch (error) {
    if (error.name !== 'AbortError') fail(error);
  } finally {
    button.disabled = false;
    if (halt) halt.disabled = true;
    if (running === mine) running = null;
  }
}

function number(id) {
  const value = $(id).valueAsNumber;
  if (!Number.isFinite(value)) throw new Error($(id).parentNode.firstChild.textContent + ': expected a number');
  return value;
}

// Turns of the conversation so far; the last answer stands in the text.
let turns = [];
function showTurns(list) {
  turns = list;
  $('play-new').hidden = turns.length === 0;
  $('play-turns').replaceChildren(...turns.slice(0, -1).map(turn =>
    Object.assign(document.createElement('li'), {textContent: turn.content, className: turn.role})));
}

function play() {
  return run($('play-run'), $('play-halt'), async signal => {
    const isChat = $('play-form').value === 'chat', prompt = $('play-prompt').value;
    const body = withPrecision({
      model: $('play-model').value, temperature: number('play-temperature'), top_p: number('play-top-p'),
      max_tokens: number('play-max'), seed: number('play-seed')
    }, $('play-precision').value);
    if ($('play-stop').value) body.stop = [$('play-stop').value];
    if (!isChat) {
      body.prompt = prompt;
      return generate(body, false, $('play-text'), $('play-figures'), signal);
    }
    const asked = {role: 'user', content: prompt};
    body.messages = [...turns, asked];
    await generate(body, true, $('play-text'), $('play-figures'), signal);
    showTurns([...body.messages, {role: 'assistant', content: $('play-text').textContent}]);
    $('play-prompt').value = '';
  });
}

function compare() {
  return run($('compare-run'), $('compare-halt'), async signal => {
    for (const side of ['left', 'right']) {
      const body = withPrecision({
        model: $('compare-model').value, prompt: $('compare-prompt').value, max_tokens: number('compare-max'),
        temperature: number('compare-temperature'), seed: number('compare-seed')
      }, $('compare-' + side).value);
      await generate(body, false, $('compare-' + side + '-text'), $('compare-' + side + '-figures'), signal);
    }
  });
}

function answer() {
  return run($('answers-run'), null, async signal => {
    const context = $('answers-context').value, points = Array.from(context);
    const begin = performance.now();
    const found = await (await request('/v1/answers', withPrecision({
      model: $('answers-model').value, question: $('answers-question').value, context,
      n_best: number('answers-count'), may_be_missing: $('answers-missing').checked
    }, $('answers-precision').value), signal)).json();
    // The best span is marked, and others where they are apart from it.
    const spans = [];
    for (const span of found.spans) {
      if (span.end > span.start && spans.every(s => span.end <= s.start || span.start >= s.end)) spans.push(span);
    }
    spans.sort((a, b) => a.start - b.start);
    const marked = $('answers-marked');
    marked.replaceChildren();
    let at = 0;
    for (const span of spans) {
      marked.append(points.slice(at, span.start).join(''));
      const mark = document.createElement('mark');
      mark.textContent = points.slice(span.start, span.end).join('');
      mark.title = (100 * span.probability).toFixed(1) + ' %';
      marked.append(mark);
      at = span.end;
    }
    marked.append(points.slice(at).join(''));
    $('answers-list').replaceChildren(...found.spans.map(span => {
      const item = document.createElement('li');
      item.textContent = (span.text || '(no answer)') + ' – ' + (100 * span.probability).toFixed(1) + ' %';
      return item;
    }));
    showFigures($('answers-figures'), {
      'answer': found.answer || '(none)', 'precision': found.precision,
      'time': (performance.now() - begin).toFixed(0) + ' ms'
    });
  });
}

// The layer map: bits by linear.
const bits = {};
let widths = [];
function plan() {
  const modules = {};
  for (const name of info.linears) modules[name] = String(bits[name]);
  const kv = $('layers-kv').value;
  return {format_version: 1, default: 'w' + bits[info.linears[0]] + 'a' + bits[info.linears[0]] + 'kv' + kv, modules};
}
function meanBits() {
  let sum = 0, weights = 0;
  info.linears.forEach((name, i) => { sum += bits[name] * info.linear_weights[i]; weights += info.linear_weights[i]; });
  return (sum / weights).toFixed(2);
}
function setBits(name, width) {
  bits[name] = width;
  const cell = document.querySelector('[data-linear="' + CSS.escape(name) + '"]');
  cell.textContent = width;
  cell.dataset.level = width >= 16 ? 0 : width >= 8 ? 1 : width >= 6 ? 2 : width >= 4 ? 3 : 4;
  cell.setAttribute('aria-label', name + ': ' + width + ' bits');
}
let pending = 0;
function layersChanged() {
  clearTimeout(pending);
  pending = setTimeout(layersRun, 250);
}
function layersRun() {
  return run($('layers-run'), null, async signal => {
    const figures = $('layers-figures');
    await generate({
      model: $('layers-model').value, prompt: $('layers-prompt').value, temperature: 0,
      max_tokens: number('layers-max'), precision: plan()
    }, false, $('layers-text'), figures, signal);
    const row = document.createElement('div'), term = document.createElement('dt'), data = document.createElement('dd');
    term.textContent = 'weight bits';
    data.textContent = meanBits();
    row.append(term, data);
    figures.prepend(row);
  });
}
function step(name, by) {
  const at = widths.indexOf(bits[name]);
  setBits(name, widths[(at + by + widths.length) % widths.length]);
  layersChanged();
}
function buildMap() {
  widths = info.precisions.map(Number).filter(width => Number.isInteger(width)).sort((a, b) => b - a);
  if (info.fixed_precisions || widths.length === 0) {
    $('layers').replaceChildren(Object.assign(document.createElement('p'), {textContent:
      'This service offers its own precisions alone, so that plans cannot be made here.'}));
    return;
  }
  const perLayer = info.linears.length / info.num_layers;
  const kinds = info.linears.slice(0, perLayer).map(name => name.replace(/^.*?\.\d+\./, ''));
  const map = $('layers-map'), head = map.createTHead().insertRow(), body = map.createTBody();
  head.append(document.createElement('th'));
  for (const kind of kinds) head.append(Object.assign(document.createElement('th'), {textContent: kind, scope: 'col'}));
  for (let layer = 0; layer < info.num_layers; ++layer) {
    const row = body.insertRow();
    row.append(Object.assign(document.createElement('th'), {textContent: layer, scope: 'row'}));
    for (let i = 0; i < perLayer; ++i) {
      const name = info.linears[layer * perLayer + i], cell = document.createElement('button');
      cell.dataset.linear = name;
      cell.tabIndex = layer + i ? -1 : 0;  // one stop of the Tab key; arrows do the rest
      cell.type = 'button';
      cell.addEventListener('click', () => step(name, 1));
      cell.addEventListener('keydown', event => {
        const moves = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -perLayer, ArrowDown: perLayer};
        if (event.key === '+') step(name, -1);
        else if (event.key === '-') step(name, 1);
        else if (moves[event.key]) {
          const next = document.querySelectorAll('#layers-map button')[layer * perLayer + i + moves[event.key]];
          if (next) {
            cell.tabIndex = -1;
            next.tabIndex = 0;
            next.focus();
          }
        } else return;
        event.preventDefault();
      });
      row.insertCell().append(cell);
    }
  }
  const option = value => Object.assign(document.createElement('option'), {value, textContent: value + ' bits'});
  $('layers-all').append(...widths.map(option));
  $('layers-kv').append(...widths.map(option));
  const first = widths.includes(8) ? 8 : widths[0];
  $('layers-all').value = $('layers-kv').value = first;
  for (const name of info.linears) setBits(name, first);
  $('layers-all').addEventListener('change', event => {
    for (const name of info.linears) setBits(name, Number(event.target.value));
    layersChanged();
  });
  $('layers-kv').addEventListener('change', layersChanged);
  $('layers-model').addEventListener('change', layersChanged);
  $('layers-run').addEventListener('click', layersRun);
  $('layers-save').addEventListener('click', () => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([JSON.stringify(plan(), null, 2) + '\n'], {type: 'application/json'}));
    link.download = 'plan.json';
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

function showTab(tab) {
  for (const other of document.querySelectorAll('[role=tab]')) {
    const chosen = other === tab;
    other.setAttribute('aria-selected', chosen);
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute('aria-controls')).hidden = !chosen;
  }
}
document.querySelector('nav').addEventListener('click', event => {
  if (event.target.role === 'tab' || event.target.getAttribute('role') === 'tab') showTab(event.target);
});
document.querySelector('nav').addEventListener('keydown', event => {
  const tabs = [...document.querySelectorAll('[role=tab]')], at = tabs.indexOf(document.activeElement);
  const moves = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tabs.length - 1};
  if (!(event.key in moves)) return;
  const next = tabs[(moves[event.key] + tabs.length) % tabs.length];
  showTab(next);
  next.focus();
  event.preventDefault();
});
document.addEventListener('keydown', event => {
  if (event.key === 'Escape' && running) running.abort();
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
  const visible = document.querySelector('[role=tabpanel]:not([hidden]) button.main');
  if (visible && !visible.disabled) visible.click();
});
$('play-run').addEventListener('click', play);
$('play-new').addEventListener('click', () => { showTurns([]); $('play-text').textContent = ''; $('play-prompt').focus(); });
$('play-form').addEventListener('change', () => showTurns([]));
$('compare-run').addEventListener('click', compare);
$('answers-run').addEventListener('click', answer);
for (const id of ['play-halt', 'compare-halt'])
  $(id).addEventListener('click', () => { if (running) running.abort(); });

(async () => {
  try {
    info = await (await request('/info')).json();
  } catch (error) {
    fail(error);
    return;
  }
  $('model').textContent = info.model + ', ' + info.num_layers + ' layers, ' + info.max_positions + ' positions' +
    (info.models.length > 1 ? ', adapters: ' + (info.models.length - 1) : '');
  for (const select of document.querySelectorAll('.models')) {
    for (const name of info.models) select.append(new Option(name === info.model ? name + ' (base)' : name, name));
  }
  const standard = info.elastic.length ? 'elastic: ' + info.elastic.join(', ') : info.default_precision || 'its own';
  for (const select of document.querySelectorAll('.precisions')) {
    select.append(new Option('default (' + standard + ')', ''));
    for (const name of info.precisions) select.append(new Option(/^\d+$/.test(name) ? name + ' bits' : name, name));
    if (!info.fixed_precisions) select.append(new Option('as in Layers', 'custom'));
  }
  for (const [id, wanted] of [['compare-left', '8'], ['compare-right', '4']]) {
    if (info.precisions.includes(wanted)) $(id).value = wanted;
  }
  if (info.has_chat_template) $('play-form').value = 'chat';
  else $('play-form').querySelector('[value=chat]').remove();
  buildMap();
})();
