import type { Quality } from './quality.ts'
import { columns, type ReportPart } from './report.ts'

export const qualityTable = (quality: readonly Quality[]): ReportPart => ({
  title:
    'What the weights cost in quality: the bundled model against its float32 self; errors of the ten largest logits ' +
    "after each prompt, divergence in nats over answers too, perplexity of the prompts' texts",
  head: columns(
    'weights, prompts, worst logit error, median, mean divergence, worst, positions, exact answers, exact answers of f32, perplexity',
  ),
  rows: quality.map((one) => [
    one.weights,
    String(one.prompts),
    one.worstLogitError.toFixed(4),
    one.medianLogitError.toFixed(4),
    one.meanDivergence.toExponential(1),
    one.worstDivergence.toExponential(1),
    String(one.positions),
    `${one.exactAnswers} of ${one.prompts}`,
    `${one.exactAnswersF32} of ${one.prompts}`,
    one.perplexity?.toFixed(4) ?? '-',
  ]),
})
