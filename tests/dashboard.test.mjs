// The pure part of dashboard.html, run by Node: numbers, dates, filters, the address, the chart's buckets.
// tests/test_dashboard_code.py passes these with the locale en-GB; by hand: LC_ALL=en_GB node --test tests/
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';

const page = readFileSync(new URL('../dashboard.html', import.meta.url), 'utf8');
const part = page.match(/^\/\/ =+ 1 pure.*?(?=^\/\/ =+ 2 )/ms)[0];
const names = [...part.matchAll(/^(?:async )?(?:function|const|class) ([A-Za-z_]\w*)/gm)].map(([, name]) => name);
const pure = await import(`data:text/javascript,${encodeURIComponent(`${part}\nexport {${names.join(', ')}};`)}`);

/** One test for a table of [arguments …, what they give]. */
function table(name, call, rows) {
  test(name, () => { for (const row of rows) assert.deepEqual(call(...row.slice(0, -1)), row.at(-1), JSON.stringify(row)); });
}

test('it needs neither document nor network nor clock', () => {
  assert.doesNotMatch(part.replace(/\/\*.*?\*\/|\/\/.*$/gms, ''), /\b(document|window|fetch|location|localStorage|Date\.now|new Date\(\))\b/);
});

// ---- numbers

table('a whole number', pure.whole, [[0, '0'], [1, '1'], [1_000_000, '1,000,000'], [1.5, '2'], [NaN, '–'], [Infinity, '–'], [null, '–'], [undefined, '–'], ['7', '–']]);
table('a short number', pure.short, [[0, '0'], [999, '999'], [1000, '1k'], [12_481, '12.5k'], [1_000_000, '1m'], [NaN, '–']]);
table('a percentage has a decimal where it is small', pure.percent, [[0, '0%'], [41.27, '41%'], [4.127, '4.1%'], [4.048, '4.0%'], [4.05, '4.05%'], [12.49, '12%'], [12.5, '12.5%'], [9.94, '9.9%'], [9.95, '10%'], [100, '100%'], [null, '–']]);
table('a duration', pure.duration, [[0, '0s'], [59.4, '59s'], [59.5, '1m 00s'], [134, '2m 14s'], [3599.6, '1h 00m'], [3900, '1h 05m'], [90_061, '25h 01m'], [null, '–'], [-0, '0s']]);
table('a change in words', (change, metric) => pure.sayChange(change, metric).words, [
  [12, 'visitors', 'up 12%, better'], [-3.25, 'visitors', 'down 3.25%, worse'], [2.5, 'bounce_rate', 'up 2.5 percentage points, worse'], [0, 'visits', 'no change'],
  [null, 'visitors', 'new'], [undefined, 'visitors', ''], [NaN, 'visitors', '']]);
table('gridlines are steps that people count in', (values, metric) => pure.gridOf(values, metric), [
  [[0], 'visitors', [0, 1, 2]], [[1], 'visitors', [0, 1, 2]], [[null, 7], 'visitors', [0, 2, 4, 6, 8]], [[1_000_000], 'visitors', [0, 250_000, 500_000, 750_000, 1_000_000]],
  [[], 'visitors', [0, 1, 2]], [[100], 'bounce_rate', [0, 25, 50, 75, 100]], [[200], 'visit_duration', [0, 60, 120, 180, 240]]]);

// ---- dates

table('the next bucket', pure.nextBucket, [
  ['2026-02-28', 'day', '2026-03-01'], ['2024-02-28', 'day', '2024-02-29'], ['2026-12-28', 'week', '2027-01-04'], ['2026-12-01', 'month', '2027-01-01'],
  ['2026-03-01 23:00:00', 'hour', '2026-03-02 00:00:00'], ['2026-12-31 23:59:00', 'minute', '2027-01-01 00:00:00']]);
table('a range moves by its length, or by whole months', pure.shiftRange, [
  [['2026-03-02', '2026-03-08'], -1, ['2026-02-23', '2026-03-01']], [['2026-03-01', '2026-03-31'], -1, ['2026-02-01', '2026-02-28']], [['2024-01-01', '2024-12-31'], 1, ['2025-01-01', '2025-12-31']],
  [['2026-03-01', '2026-03-01'], 1, ['2026-03-02', '2026-03-02']],
  [['2026-03-02T08:00:00+01:00', '2026-03-02T09:59:59+01:00'], 1, ['2026-03-02T10:00:00+01:00', '2026-03-02T11:59:59+01:00']]]);
table('an instant in a zone', (instant, zone) => pure.localLabel(new Date(instant), zone), [
  ['2026-10-25T00:30:00Z', 'Europe/Berlin', '2026-10-25 02:30:00'], ['2026-10-25T01:30:00Z', 'Europe/Berlin', '2026-10-25 02:30:00'],
  ['2026-10-25T01:30:00Z', 'Asia/Kathmandu', '2026-10-25 07:15:00'], ['2026-10-25T18:15:00Z', 'Asia/Kathmandu', '2026-10-26 00:00:00'], ['2026-10-25T12:00:00Z', 'No/Such_Zone', '2026-10-25 12:00:00']]);
table('the moment of a label, through changes of the clock', pure.momentOf, [
  ['2026-07-01 12:00:00', 'Europe/Berlin', '2026-07-01T12:00:00+02:00'], ['2026-10-25 02:00:00', 'Europe/Berlin', '2026-10-25T02:00:00+02:00'],
  ['2026-10-25 02:00:00+01:00', 'Europe/Berlin', '2026-10-25T02:00:00+01:00'], ['2026-10-25 03:00:00', 'Europe/Berlin', '2026-10-25T03:00:00+01:00'],
  ['2026-03-29 01:00:00', 'Europe/Berlin', '2026-03-29T01:00:00+01:00'], ['2026-03-29 03:00:00', 'Europe/Berlin', '2026-03-29T03:00:00+02:00'],
  ['2026-10-25 02:00:00', 'Asia/Kathmandu', '2026-10-25T02:00:00+05:45'], ['2026-11-01 01:00:00', 'America/St_Johns', '2026-11-01T01:00:00-02:30'], ['2026-01-01 00:00:00', 'UTC', '2026-01-01T00:00:00+00:00']]);
table('looking closer', (labels, unit, range, zone = 'Asia/Kathmandu') => { const {from, to, interval} = pure.zoomTo(labels, unit, range, zone); return [from, to, interval]; }, [
  [['2026-03-02', '2026-03-05'], 'day', ['2026-03-01', '2026-03-31'], ['2026-03-02', '2026-03-05', '']],
  [['2026-02-23', '2026-03-02'], 'week', ['2026-03-01', '2026-03-07'], ['2026-03-01', '2026-03-07', '']],
  [['2026-03-01', '2026-03-01'], 'month', ['2026-03-10', '2026-12-31'], ['2026-03-10', '2026-03-31', '']],
  [['2026-03-02 00:00:00', '2026-03-02 23:00:00'], 'hour', ['2026-03-01', '2026-03-07'], ['2026-03-02', '2026-03-02', '']],
  [['2026-03-02 09:00:00', '2026-03-02 10:00:00'], 'hour', ['2026-03-02', '2026-03-02'], ['2026-03-02T09:00:00+05:45', '2026-03-02T10:59:59+05:45', 'minute']],
  [['2026-03-02 09:00:00', '2026-03-02 20:00:00'], 'hour', ['2026-03-02', '2026-03-02'], ['2026-03-02T09:00:00+05:45', '2026-03-02T20:59:59+05:45', 'hour']]]);
table('the intervals that suit a range', pure.unitsFor, [
  [0.05, ['minute']], [1, ['minute', 'hour']], [7, ['hour', 'day']], [28, ['hour', 'day', 'week']], [91, ['day', 'week']], [365, ['day', 'week', 'month']], [4000, ['week', 'month']]]);
table('the interval of labels', pure.unitOf, [
  [['2026-03-02 00:00:00', '2026-03-02 00:01:00'], 'minute'], [['2026-03-02 00:00:00', '2026-03-02 01:00:00'], 'hour'], [['2026-03-02'], 'day'], [['2026-03-02', '2026-03-09'], 'week'], [['2026-02-01', '2026-03-01'], 'month'], [[], 'day']]);
const points = labels => labels.map(label => ({label}));
table('the bucket of a note', pure.bucketOf, [
  [points(['2026-03-02', '2026-03-03']), '2026-03-03', 'day', 1], [points(['2026-03-02', '2026-03-03']), '2026-03-03 14:00:00', 'day', 1], [points(['2026-03-02', '2026-03-03']), '2026-03-04', 'day', -1],
  [points(['2026-03-02', '2026-03-03']), '2026-03-01', 'day', -1], [points(['2026-02-23', '2026-03-02']), '2026-03-01', 'week', 0], [points(['2026-03-02 00:00:00', '2026-03-02 01:00:00']), '2026-03-02', 'hour', 0],
  [points(['2026-03-02 13:00:00', '2026-03-02 14:00:00']), '2026-03-02 14:00:00', 'hour', 1], [[], '2026-03-02', 'day', -1]]);

// ---- series

test('a series has a gap where nothing is known, a partial bucket where now is, and nothing after', () => {
  const question = {metrics: ['visitors', 'visits', 'bounce_rate'], dimensions: ['time:day']};
  const answer = {query: {date_range: ['2026-03-01T00:00:00+00:00', '2026-03-04T23:59:59+00:00']}, meta: {time_labels: ['2026-03-01', '2026-03-02', '2026-03-03', '2026-03-04']},
    results: [{dimensions: ['2026-03-01'], metrics: [2, 2, 50]}, {dimensions: ['2026-03-02'], metrics: [0, 0, 0]}, {dimensions: ['2026-03-03'], metrics: [1, 1, 100]}]};
  const read = metric => pure.seriesPoints(question, answer, metric, '2026-03-03 12:00:00').points.map(({value, partial, begun}) => [value, partial, begun]);
  assert.deepEqual(read('visitors'), [[2, false, true], [0, false, true], [1, true, true], [null, false, false]]);
  assert.deepEqual(read('bounce_rate'), [[50, false, true], [null, false, true], [100, true, true], [null, false, false]]);
});

// ---- filters

const FILTERS = [
  ['is', 'event:page', ['/a,b%c', '/\u202egnp', '\u{1F680}', `/${'x'.repeat(2000)}`, '<b>', '"', '&f=is', '#', '+', ' ']], ['matches_not', 'visit:source', ['^a|b$']],
  ['is', 'event:props:a.b "c"', ['(none)']], ['or', [['is', 'visit:country', ['SE']], ['and', [['contains', 'event:page', ['/b']], ['not', ['is', 'visit:device', ['TV']]]]]]],
  ['is', 'event:page', ['/A'], {case_sensitive: false}], ['has_done', ['is', 'event:name', ['signup']]], ['is', 'segment', [7]],
];
test('every filter comes back from its text', () => { for (const filter of FILTERS) assert.deepEqual(pure.textToFilter(pure.filterToText(filter)), filter); });
table('what is no filter is none', text => pure.textToFilter(text), ['', 'is', 'is,event:page', 'love,event:page,x', '[', '[1]', '{}', 'null', '%', 'is,%,x'].map(text => [text, null]));
test('filters go into the builder and come out the same', () => {
  for (const filters of [[], ...FILTERS.map(filter => [filter]), FILTERS.slice(0, 3), [FILTERS[3], FILTERS[0]]]) assert.deepEqual(pure.filtersOf(pure.draftOf(filters)), filters);
});
test('what says nothing in the builder is left out, and a group of one is that one', () => {
  const empty = {dimension: 'event:page', operator: 'is', values: []}, full = {dimension: 'visit:device', operator: 'is', values: ['TV']};
  assert.deepEqual(pure.filtersOf({op: 'or', items: [empty, {op: 'and', items: [full, empty]}, {op: 'and', items: []}]}), [['is', 'visit:device', ['TV']]]);
  assert.deepEqual(pure.filtersOf({op: 'and', items: [{...full, dimension: 'event:props:'}]}), []);
});
const [tv, linux] = [['is', 'visit:device', ['TV']], ['is', 'visit:os', ['Linux']]], not = filter => ['not', filter], none = (...items) => ({op: 'none', items});
table('"not" is a group of none, whatever it stands before', filter => [pure.itemOf(filter), pure.filterOf(pure.itemOf(filter))], [
  ...[[not(tv), none(pure.itemOf(tv))], [not(['or', [tv, linux]]), none(pure.itemOf(tv), pure.itemOf(linux))], [not(['and', [tv, linux]]), none(pure.itemOf(['and', [tv, linux]]))],
    [not(not(tv)), none(none(pure.itemOf(tv)))], [not(['has_done', tv]), none({raw: ['has_done', tv]})], [not(['or', [tv, not(linux)]]), none(pure.itemOf(tv), none(pure.itemOf(linux)))],
  ].map(([filter, item]) => [filter, [item, filter]])]);
table('none of what says nothing says nothing', (...items) => pure.filtersOf({op: 'none', items}), [
  [[]], [pure.newCondition(), []], [pure.itemOf(tv), [not(tv)]], [pure.itemOf(['and', [tv, linux]]), [not(['and', [tv, linux]])]], [pure.itemOf(['or', [tv, linux]]), [not(['or', [tv, linux]])]]]);
table('filters that all hold as one sentence', pure.sayFilters, [[[], ''], [[tv], 'Device is TV'], [[['or', [tv, linux]]], 'Device is TV or System is Linux'],
  [[tv, ['or', [linux, tv]], not(['or', [tv, linux]])], 'Device is TV and (System is Linux or Device is TV) and not (Device is TV or System is Linux)']]);
test('what was begun and is unfinished is found, in a funnel with its step; an empty row that nobody began is none', () => {
  const row = pure.newCondition(), begun = {...row, untouched: false}, nameless = {...begun, dimension: 'event:props:', values: ['x']}, full = {...begun, values: ['/']};
  const all = (...items) => ({op: 'and', items}), then = (...items) => ({op: 'then', items}), found = (...asked) => pure.unfinishedIn(...asked)?.map(each => each || '');
  for (const draft of [all(), all(row), all(full, row), all({op: 'or', items: [full, row]}), then(all(full, row), all({raw: ['x']}, row))]) assert.equal(found(draft), undefined);
  for (const [draft, wanted] of [[all(full, begun), begun], [all({op: 'or', items: [full, nameless]}, begun), nameless]]) assert.deepEqual(found(draft), [wanted, '']);
  assert.deepEqual(found(all(row), true), [row, '']);
  assert.deepEqual(found(then(all(full), all(row))), [row, 'Step 2: a']);
  assert.deepEqual(found(then(all(full, begun), all(row))), [begun, 'Step 1: a']);
});
table('a filter as a sentence', pure.sayFilter, [
  [['is', 'visit:country', ['SE', 'NO']], 'Country is Sweden or Norway'], [['matches_not', 'event:props:plan', ['x']], 'plan does not match x'],
  [['or', [['is', 'visit:os', ['A']], ['and', [['is', 'visit:os', ['B']], ['is_not', 'visit:device', ['C']]]]]], 'System is A or (System is B and Device is not C)'],
  [['not', ['is', 'visit:device', ['TV']]], 'not (Device is TV)']]);
test('where a goal is filtered by, rows have its rate, and the list of goals is of all of them', () => {
  const filters = [['is', 'event:goal', ['x']], ['is', 'visit:os', ['A']]];
  assert.deepEqual(pure.breakdownOf('source', filters).brief, ['visitors', 'percentage', 'group_conversion_rate']);
  assert.deepEqual(pure.filtersFor(pure.breakdownOf('goal', filters), filters), [['is', 'visit:os', ['A']]]);
});
table('a goal at any depth', pure.isOfGoal, [[['is', 'event:goal', ['x']], true], [['or', [['is', 'visit:os', ['A']], ['not', ['is', 'event:goal', ['x']]]]], true], [['is', 'event:name', ['event:goal']], false], [['is', 'segment', [1]], false]]);

test('rows stand beside those of another segment', () => {
  const rows = metrics => metrics.map((values, i) => ({dimensions: [`d${i}`], metrics: values}));
  const shown = {question: {metrics: ['visitors', 'bounce_rate']}, data: {results: rows([[2, 50], [0, null], [3, 10], [1, 1]])}}, other = {data: {results: rows([[4, 40], [0, 0], [0, 20]])}};
  assert.deepEqual(pure.rowsBeside(shown, other).map(({comparison}) => comparison?.change), [[-50, 10], [0, undefined], [null, -10], undefined]);
});

// ---- the address

const ADDRESSES = ['', '?site=a.example&period=7d', '?view=sites&compare=none', '?from=2026-03-02&to=2026-03-08&metric=bounce_rate&interval=week', '?compare=year_over_year&match=weekday',
  '?compare=custom&compare_from=2025-01-01&compare_to=2025-01-31', '?compare=segment&against=7', '?f=is,visit:country,SE,NO&f=contains,event:page,/blog'];
test('an address that says something is written as it was read', () => { for (const search of ADDRESSES) assert.equal(pure.writeState(pure.readState(search)), search); });
test('moments stay what they were', () => {
  const state = pure.readState(`?${new URLSearchParams({from: '2026-03-02T08:00:00+05:45', to: '2026-03-02T09:59:59+05:45'})}`);
  assert.deepEqual([state.period, state.from, pure.readState(pure.writeState(state)).to], ['custom', '2026-03-02T08:00:00+05:45', '2026-03-02T09:59:59+05:45']);
});
test('what makes no sense in an address is as if it were not there', () => {
  for (const search of ['?period=never&metric=love&interval=eon&view=cellar&match=moon', '?from=2026-02-30&to=2026-03-01', '?from=2026-03-02&to=2026-03-01', '?from=2026-03-02', '?compare=custom',
    '?compare=custom&compare_from=x&compare_to=y', '?from=2026-03-02T25:00:00%2B01:00&to=2026-03-02T26:00:00%2B01:00', '?from=2026-03-01&to=2026-03-02T09:59:59%2B01:00', '?f=&f=[&f=is', '?%', '?=&&'])
    assert.equal(pure.writeState(pure.readState(search)), '');
});
test('a comparison is asked for as it was chosen, and all time has none', () => {
  const include = search => pure.headlineQuestion(pure.readState(search)).include.comparisons;
  assert.deepEqual(include('?compare=custom&compare_from=2025-01-01&compare_to=2025-01-31&match=weekday'), {mode: 'custom', date_range: ['2025-01-01', '2025-01-31'], match_day_of_week: true});
  assert.deepEqual(include(''), {mode: 'previous_period'});
  assert.equal(include('?period=all'), undefined);
  assert.equal(include('?compare=none'), undefined);
});
test('conversions are among the headline numbers where a goal is filtered by', () => {
  assert.deepEqual(pure.cardsOf(pure.readState('?f=is,event:goal,Signup')).slice(-2), ['events', 'conversion_rate']);
  assert.equal(pure.chosenMetric(pure.readState('?metric=conversion_rate')), 'visitors');
});

// ---- revenue

const spaced = text => text.replaceAll('\u00a0', ' ');
const amount = (text, currency = 'EUR') => new pure.Amount(text, currency);

table('an amount has every digit of its text', (text, currency) => spaced(pure.money(amount(text, currency))), [
  ['1204.50', 'EUR', '€1,204.50'], ['9800', 'JPY', 'JP¥9,800'], ['0.0415', 'USD', 'US$0.0415'], ['-12.30', 'GBP', '-£12.30'], ['0', 'EUR', '€0'],
  ['92233720368547758.07', 'EUR', '€92,233,720,368,547,758.07'], ['1.005', 'KWD', 'KWD 1.005'], ['5.00', 'XTS', 'XTS 5.00']]);
table('a short amount', (text, currency) => pure.shortMoney(amount(text, currency)), [['999.99', 'EUR', '€999.99'], ['12481.50', 'EUR', '€12.5k'], ['-4100', 'GBP', '-£4.1k']]);
test('no amount is a dash', () => assert.deepEqual([null, undefined].map(pure.money), ['–', '–']));
test('an amount is drawn and compared as a number, and kept in a file as its text', () => {
  assert.deepEqual([Math.max(amount('2.50'), amount('10')), String(amount('-2.50')), pure.csvCell(amount('-2.50'))], [10, '-2.50', '-2.50']);
});
table('gridlines go below zero where more was paid back than sold', values => pure.gridOf(values.map(text => amount(text)), 'total_revenue'), [
  [['-40', '80'], [-60, -30, 0, 30, 60, 90]], [['-5'], [-6, -4, -2, 0]], [['3'], [0, 1, 2, 3]]]);

test('an answer has a column for each currency, and nothing about revenue where there is none', () => {
  const answer = {
    question: {metrics: ['visitors', 'total_revenue', 'average_revenue']},
    data: {results: [{dimensions: ['a'], metrics: [7, {EUR: '1.50'}, {EUR: '1.50'}],
      comparison: {dimensions: ['a'], metrics: [5, {USD: '2.00'}, {USD: '2.00'}], change: [40, {EUR: null, USD: -100}, {EUR: null, USD: null}]}}]}};
  assert.deepEqual(pure.inColumns(answer), {question: {metrics: ['visitors']}, data: {results: [{dimensions: ['a'], metrics: [7], comparison: {dimensions: ['a'], metrics: [5], change: [40]}}]}});
  pure.setCurrencies(['EUR', 'USD']);
  const {question, data: {results: [row]}} = pure.inColumns(answer);
  assert.deepEqual(question.metrics, ['visitors', 'total_revenue:EUR', 'total_revenue:USD', 'average_revenue:EUR', 'average_revenue:USD']);
  assert.deepEqual(row.metrics.map(String), ['7', '1.50', '0', '1.50', 'null']);
  assert.deepEqual(row.comparison.metrics.map(String), ['5', '0', '2.00', 'null', '2.00']);
  assert.deepEqual(row.comparison.change, [40, null, -100, null, null]);
  assert.deepEqual(pure.cardsOf(pure.readState('?metric=average_revenue:USD')).slice(6), ['total_revenue:EUR', 'total_revenue:USD', 'average_revenue:USD', 'revenue_per_visitor:USD']);
  assert.equal(pure.csvHead('total_revenue:USD'), 'Revenue (USD)');
  assert.equal(pure.sayMetric(amount('1.50'), 'total_revenue:EUR'), '€1.50 revenue');
  pure.setCurrencies(['EUR']);
  assert.deepEqual([pure.csvHead('total_revenue:EUR'), pure.METRICS['total_revenue:EUR'].label], ['Revenue (EUR)', 'Revenue']);
  pure.setCurrencies([]);
  assert.equal(pure.chosenMetric(pure.readState('?metric=total_revenue:EUR')), 'visitors');
});
table('a metric in the address', text => pure.readState(`?metric=${text}`).metric, [
  ['total_revenue:EUR', 'total_revenue:EUR'], ['total_revenue', 'visitors'], ['visits:EUR', 'visitors'], ['total_revenue:eur', 'visitors'], ['constructor', 'visitors'], ['visits', 'visits']]);

// ---- funnels

const filter = (...values) => ['is', 'event:page', values];
table('the name of a step that nobody has named', pure.nameOfStep, [
  [[filter('/a')], 0, '/a'], [[filter('/a', '/b')], 1, 'Step 2'], [[filter('/a'), filter('/b')], 2, 'Step 3'], [[['is', 'visit:country', ['SE']]], 0, 'Step 1'], [[], 0, 'Step 1'],
  [[['is_not', 'event:goal', ['Paid']]], 0, 'Step 1'], [[['is', 'event:goal', ['Paid']]], 0, 'Paid']]);
test('the steps of a funnel become groups of the builder and steps again', () => {
  const steps = [{name: '/a', filters: [filter('/a')]}, {name: 'Any', filters: [['or', [filter('/b'), ['at_least', 'event:scroll_depth', [75]]]], filter('/c')]}];
  assert.deepEqual(pure.stepsOf(pure.draftOfSteps(steps)), [{filters: steps[0].filters}, steps[1]]);
  assert.equal(pure.draftOfSteps().items.length, 2);
});
table('a window', seconds => pure.spanOf(seconds), [
  [null, [0, '']], [172_800, [2, 'days']], [5400, [90, 'minutes']], [3600, [1, 'hours']], [90, [1.5, 'minutes']]]);
table('a funnel in words', (order, window) => pure.sayFunnel({steps: [{name: 'A'}, {name: 'B'}], order, window}), [
  ['any', null, 'A → B, in one visit'], ['strict', 3600, 'A → B, within 1 hour, each right after the one before'], ['any', 604_800, 'A → B, within 7 days']]);

// ---- panels, sheets and their files

table('a click with a modifier leaves a value out, and lets it in again', pure.toggleExclusion, [
  [[], 'visit:os', 'A', [['is_not', 'visit:os', ['A']]]],
  [[['is_not', 'visit:os', ['A']]], 'visit:os', 'B', [['is_not', 'visit:os', ['A', 'B']]]],
  [[['is_not', 'visit:os', ['A', 'B']]], 'visit:os', 'A', [['is_not', 'visit:os', ['B']]]],
  [[['is_not', 'visit:os', ['A']], ['is', 'visit:device', ['TV']]], 'visit:os', 'A', [['is', 'visit:device', ['TV']]]],
  [[['is', 'visit:os', ['A']]], 'visit:os', 'A', [['is_not', 'visit:os', ['A']]]],
  [[['or', [['is', 'visit:os', ['A']]]]], 'visit:os', 'A', [['or', [['is', 'visit:os', ['A']]]], ['is_not', 'visit:os', ['A']]]]]);
table('a cell of a file is text to a spreadsheet, never a formula', pure.csvCell, [
  ['/a', '/a'], ['a,b', '"a,b"'], ['say "hi"', '"say ""hi"""'], ['two\nlines', '"two\nlines"'], ['a;b', '"a;b"'], ['', ''], [null, ''], [0, '0'], [-1.5, '-1.5'],
  ['=1+1', "'=1+1"], ['+1', "'+1"], ['-1', "'-1"], ['@SUM(A1)', "'@SUM(A1)"], ['\t=1', '"\'\t=1"'], [' =1', "' =1"], ['\r=1', '"\'\r=1"'], ['＝1', "'＝1"], ['=HYPERLINK("x","y")', '"\'=HYPERLINK(""x"",""y"")"']]);
test('a file begins with the mark of UTF-8 and ends its lines as RFC 4180 has it', () => assert.equal(pure.csvOf([['a', 1], ['b', null]]), '\ufeffa,1\r\nb,\r\n'));
test('the name of a country is looked for by the browser, any other value by the server', () => {
  assert.deepEqual(pure.searchFilters('visit:country', 'swed'), [['is', 'visit:country', ['SE']]]);
  assert.deepEqual(pure.searchFilters('visit:country', 'nowhere'), [['contains', 'visit:country', ['nowhere'], {case_sensitive: false}]]);
  assert.deepEqual(pure.searchFilters('event:page', '/a'), [['contains', 'event:page', ['/a'], {case_sensitive: false}]]);
  assert.deepEqual(pure.searchFilters('event:page', ''), []);
});
test('a filter by one browser opens its versions, and a property is a breakdown of its own', () => {
  const dimension = (...more) => pure.breakdownOf(...more)?.dimension;
  assert.equal(dimension('browser', [['is', 'visit:browser', ['Firefox']]]), 'visit:browser_version');
  assert.equal(dimension('browser', [['is', 'visit:browser', ['Firefox', 'Safari']]]), 'visit:browser');
  assert.equal(dimension('prop:a plan'), 'event:props:a plan');
  for (const name of ['', 'prop:', 'constructor', 'toString', 'page2']) assert.equal(dimension(name), undefined);
});
test('a sheet stands in the address, and nonsense in it does not', () => {
  const written = search => pure.writeState(pure.readState(search));
  for (const search of ['?sheet=page&q=blog&sort=bounce_rate:asc&page=3', '?pattern=bounce_rate', '?sheet=prop:plan']) assert.equal(written(search), search);
  for (const search of ['?sheet=nothing&q=x&page=2', '?pattern=luck', '?q=x&page=3']) assert.equal(written(search), '');
  assert.equal(written('?sheet=page&page=-7'), '?sheet=page');
  assert.deepEqual(pure.sheetOrder(pure.readState('?sheet=page&sort=secret:asc'), ['visitors']), ['visitors', 'desc']);
});

// ---- scales, the week and the year

table('levels', pure.levelOf, [[0, [1, 2, 3, 4, 5], 0], [1, [1, 2, 3, 4, 5], 1], [5, [1, 2, 3, 4, 5], 5], [4.5, [1, 2, 3, 4, 5], 5], [1, [1, 1, 1, 1, 1], 1], [null, [1, 1, 1, 1, 1], 0]]);
test('the legend of a map leaves out steps that no count can be on', () => {
  assert.deepEqual(pure.sayLevels(pure.steepEdges(81)), [[1, '1'], [2, '2 – 3'], [3, '4 – 9'], [4, '10 – 27'], [5, '28 – 81']]);
  assert.deepEqual(pure.sayLevels(pure.steepEdges(1)), [[5, '1']]);
  for (const most of [1, 2, 3, 7, 100, 12_345]) assert.equal(pure.levelOf(most, pure.steepEdges(most)), 5);
});
test('one day of uproar does not pale all others', () => {
  assert.deepEqual(pure.fairEdges([0, 1, 2, 3, 4, 5000]), [1, 2, 3, 4, 5000]);
  assert.deepEqual(pure.fairEdges([]), [0, 0, 0, 0, 0]);
});
table('the first weekday of a locale', pure.firstWeekday, [['en-US', 7], ['de-DE', 1], ['ar-EG', 6], ['not a locale', 1]]);
table('weekdays', pure.weekdayOf, [['2024-01-01', 1], ['2026-11-22', 7], ['2024-02-29', 4]]);
table('53 weeks end with the one of a day', (day, first) => { const start = pure.yearBefore(day, first); return [start, pure.weekdayOf(start)]; }, [
  ['2026-11-24', 1, ['2025-11-24', 1]], ['2026-11-24', 7, ['2025-11-23', 7]], ['2026-11-22', 1, ['2025-11-17', 1]]]);
test('a rate of hardly any visits is no peak', () => {
  const rows = [{dimensions: ['a'], metrics: [100, 1]}, {dimensions: ['b'], metrics: [60, 100]}, {dimensions: ['c'], metrics: [0, 50]}];
  assert.equal(pure.peakOf(rows, 0, 1, true).dimensions[0], 'b');
  assert.equal(pure.peakOf(rows, 0, 1, false).dimensions[0], 'a');
  assert.equal(pure.peakOf([], 0, 1, true), null);
});

// ---- journeys and retention

const page1 = ['is', 'event:page', ['/a']], event1 = ['is', 'event:name', ['x']];
table('a step is gone by, or by any again', pure.toggleStep, [
  [[], 0, page1, [page1]], [[], 2, page1, [null, null, page1]], [[page1], 0, page1, []], [[page1], 0, event1, [event1]], [[page1, event1], 0, page1, [null, event1]], [[page1, null, event1], 2, event1, [page1]]]);
table('where journeys begin, in words', pure.sayNode, [
  [page1, '/a'], [event1, 'Event: x'], [['is', 'event:goal', ['Sign up']], 'Goal: Sign up'], [['contains', 'event:page', ['/b']], 'Page contains /b'], [['is', 'event:page', ['/a', '/b']], 'Page is /a or /b']]);
table('the tails of a step are there where visits are', (other, ended, way) => pure.rowsOfStep({rows: [], other, ended}, way).map(({words, visits}) => [words, visits]), [
  [{values: 0, visits: 0}, 0, '', []], [{values: 1, visits: 2}, 3, '', [['1 other', 2], ['Visit ended', 3]]], [{values: 1200, visits: 2000}, 1, 'previous', [['1,200 others', 2000], ['Visit began', 1]]]]);
table('the address of journeys', search => { const {journey, way, steps, path, cohorts} = pure.readState(search); return pure.writeState({...pure.DEFAULTS, journey, way, steps, path, cohorts}); }, [
  ['?journey=is,event:page,/a&way=previous&steps=5&then=&then=is,event:name,x&cohorts=day', '?way=previous&steps=5&cohorts=day&journey=is,event:page,/a&then=&then=is,event:name,x'],
  ['?journey=x&way=up&steps=0&then=is,visit:country,SE&then=is,event:page,/a,/b&then=&cohorts=hour', ''], ['?steps=11', '?steps=10'], ['?steps=-1', '?steps=1']]);
table('cohorts are of days where the period is short', pure.cohortUnit, [[{cohorts: ''}, ['2026-03-01', '2026-03-07'], 'day'], [{cohorts: ''}, ['2026-03-01', '2026-03-28'], 'week'], [{cohorts: 'day'}, ['2026-01-01', '2026-12-31'], 'day']]);
table('what is not known of a cohort is an empty cell', pure.linesOfCohorts, [
  [{interval: 'week', intervals: 3, cohorts: [{start: '2026-03-02', visitors: 12, returned: [12, 0, null]}]}, [['Week', 'Visitors', 'Week 1', 'Week 2'], ['2026-03-02', 12, 0, null]]],
  [{interval: 'day', intervals: 0, cohorts: []}, [['Day', 'Visitors']]]]);
