"""The task translate: from texts of one language to those of another, by an encoder-decoder with attention."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recur.data.batches import PairBatches
from recur.data.subwords import Subwords
from recur.models.seq2seq import EncoderDecoder, EncoderDecoderConfig
from recur.tasks.bleu import sacrebleu_metrics
from recur.tasks.decoding import GREEDY, Decoding
from recur.tasks.job import Figure, Member, Result, Scored, Setup, Task, TaskReport, Trained
from recur.tasks.progress import Progress
from recur.tasks.translate.baselines import run_baselines
from recur.tasks.translate.data import Corpus, Encoder, Part, read_corpus, read_test
from recur.tasks.translate.model import TranslateObjective
from recur.tasks.translate.options import TranslateOptions
from recur.tasks.translate.predictor import TranslatePredictor
from recur.tasks.translate.report import Drawn, Shown, report
from recur.tasks.translate.scores import Translated, score
from recur.tasks.writing import begin_with_frequencies


class Translate(Task[TranslateOptions, Corpus]):
    """From pairs of texts to trained translators."""

    name = "translate"
    options = TranslateOptions
    figure = Figure("bleu", "{:.2f}".format, unit="sentences", label="BLEU")

    def read(self, options: TranslateOptions, progress: Progress) -> Corpus:
        """Read the pairs, cut them into parts, and learn the subwords."""
        sacrebleu_metrics()  # else it would be found missing when the training is over
        return read_corpus(options)

    def setup(self, options: TranslateOptions, data: Corpus) -> Setup:
        """Make the network, and batches of like lengths."""
        (seed,), size = options.seed, len(data.encoder.subwords)
        given = options.network(EncoderDecoderConfig)
        sizes = {"vocabulary_size": size, "source_vocabulary_size": size, "shared": options.tied}
        network = EncoderDecoderConfig(**given | sizes)
        model = EncoderDecoder(network)
        begin_with_frequencies(model.decoder.scores, data.train.targets)
        batches = PairBatches(data.train.sources, data.train.targets, options.batch_size, seed)
        validation = data.validation
        return Setup(
            TranslateObjective(model, options, options.epochs * (options.epoch_steps or len(batches))),
            batches,
            PairBatches(validation.sources, validation.targets, options.batch_size, seed=0, shuffle=False),
            config={"network": dataclasses.asdict(network), "subwords": data.encoder.subwords.state()},
            facts={"padding_share": batches.padding_share},
        )

    def score(self, options: TranslateOptions, data: Corpus, trained: list[Trained], progress: Progress) -> Scored:
        """Translate validation and test part and score both, the test part also with a beam."""
        test, notes = read_test(data)
        baselines = run_baselines(data, test, options.bleu_tokens, progress.say) if options.baselines else []
        wide = Decoding(beam=options.beam, length_penalty=options.length_penalty)
        members = []
        for one in trained:

            def scored(part: Part, name: str, search: Decoding = GREEDY, one: Trained = one) -> Translated:
                return score(
                    one.model,
                    data.encoder,
                    part,
                    search,
                    tokens=options.bleu_tokens,
                    batch_size=options.batch_size,
                    progress=progress,
                    name=f"{one.name}: translating the {name}",
                )

            validation, greedy = scored(data.validation, "validation part"), scored(test, "test part")
            beam = scored(test, "test part with a beam", wide) if options.beam > 1 else None
            members.append(Member(one, validation.scores, greedy.scores, Shown(greedy, beam)))
        parts = {"train": data.train, "validation": data.validation, "test": test}
        rows = {name: len(part.sources) for name, part in parts.items()}
        return Scored(members, baselines, rows, notes, extra=Drawn(test))

    def facts(self, result: Result[Corpus], member: Member) -> dict[str, Any]:
        """Return the scores with a beam, and the size of the vocabulary."""
        beam = member.shown.beam
        shown = {} if beam is None else {"beam": dataclasses.asdict(beam.scores)}
        return shown | {"subwords": len(result.data.encoder.subwords)}

    def report(self, result: Result[Corpus]) -> TaskReport:
        """Return attention maps, scores by length and translations."""
        return report(result)

    def build(self, config: Mapping[str, Any]) -> EncoderDecoder:
        """Make the encoder-decoder."""
        return EncoderDecoder(EncoderDecoderConfig(**config["network"]))

    def load(self, folder: Path, config: Mapping[str, Any], model: Any) -> TranslatePredictor:
        """Make the predictor."""
        return TranslatePredictor(folder, config, model, Encoder(Subwords.from_state(config["subwords"])))


TRANSLATE = Translate()
