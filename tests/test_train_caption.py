"""`recur train caption`: from pictures to captions and labels of frames, their scores, and what is refused."""

import csv
import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stopping import StopsAfter

import recur
from recur.app.main import main
from recur.data.pictures import ClipBatches, Clips, PictureForm, frame_files, picture_form, read_picture
from recur.data.sequences import Sequences
from recur.errors import InputError, MissingExtra
from recur.models import Captioner, CaptionerConfig, FrameLabeller, FrameLabellerConfig, Vision
from recur.tasks.bleu import bleu
from recur.tasks.caption.augment import Affine
from recur.tasks.caption.cider import cider
from recur.tasks.caption.options import CaptionOptions
from recur.tasks.caption.scores import resampled
from recur.tasks.caption.task import CAPTION
from recur.tasks.interrupt import Interrupted
from recur.tasks.job_run import train_run

Image = pytest.importorskip("PIL.Image")

ROOT = Path(__file__).parent.parent
SMALL = {"epochs": 1, "hidden_size": 12, "embedding_size": 12, "channels": (4, 6), "threads": 1, "batch_size": 8}
SMALL |= {"baselines": False, "shift": 0, "rotate": 0.0, "zoom": 0.0, "dropout": 0.0, "watch_gradients": 0, "beam": 1}
PLACES = {"left": 0, "right": 6}
MARKS = {"dark": 90, "bright": 250}


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def square(place, mark, seed, side=8, width=12):
    """A square on the left or the right of a noisy picture."""
    pixels = np.random.default_rng(seed).integers(0, 20, (side, width), dtype=np.uint8)
    pixels[2:6, PLACES[place] + 1 : PLACES[place] + 5] = MARKS[mark]
    return pixels


def table(path, rows, columns=("image", "text")):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture
def images(tmp_path):
    """Eighty pictures of four kinds, and a table of their captions."""
    rows = []
    for number in range(80):
        place, mark = list(PLACES)[number % 2], list(MARKS)[number // 2 % 2]
        save(tmp_path / "pictures" / f"{number}.png", square(place, mark, number))
        rows.append((f"pictures/{number}.png", f"{mark} on the {place}"))
    return table(tmp_path / "images.csv", rows)


@pytest.fixture
def clips(tmp_path):
    """Forty clips of three or four frames in which a square goes to a side, a table of captions and one of labels."""
    captions, labels = [], []
    for number in range(40):
        way = list(PLACES) if number % 2 else list(PLACES)[::-1]
        places = [way[0]] * (1 + number // 2 % 2) + [way[1]] * 2
        for frame, place in enumerate(places):
            save(tmp_path / "clips" / str(number) / f"{frame + 8}.png", square(place, "bright", number))
        captions.append((f"clips/{number}", f"it goes {way[1]}"))
        labels.append((f"clips/{number}", " ".join(places)))
    return table(tmp_path / "clips.csv", captions), table(tmp_path / "labels.csv", labels)


def run(source, tmp_path, **options):
    return train_run(CAPTION, CaptionOptions(**(SMALL | {"train": source, "out": tmp_path / "run"} | options)))


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_captions_of_images_are_learned_and_the_run_answers(images, tmp_path, capsys):
    made = run(images, tmp_path, epochs=16, learning_rate=0.02, baselines=True, beam=2, hidden_size=16)
    found = metrics(made)
    assert found["test"]["exact"] == 1.0
    assert found["test"]["cider"] > 4
    assert found["beam"]["exact"] == 1.0
    assert found["rows"] == {"train": 58, "validation": 6, "test": 16}
    assert found["baselines"]["frequent"]["exact"] < 0.6
    assert found["baselines"]["nearest"]["exact"] == 1.0
    page = (made / "report.html").read_text()
    assert "Where each word looked" in page
    assert page.count("data:image/png") > 16
    new = save(tmp_path / "new.png", square("right", "dark", 999))
    network = recur.load(made)
    assert network.predict([new])[0].caption == "dark on the right"
    assert network.predict([square("left", "bright", 5)], beam=3)[0].caption == "bright on the left"
    assert network.evaluate(images).exact > 0.95
    capsys.readouterr()
    assert main(["predict", str(made), str(new)]) == 0
    assert capsys.readouterr().out.startswith("dark on the right\t")
    assert main(["predict", str(made), "--file", str(images), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[3])["caption"] == "bright on the right"
    assert main(["evaluate", str(made), str(images), "--beam", "2"]) == 0
    out = capsys.readouterr().out
    assert "CIDEr-D" in out
    assert "was trained on" in out
    assert main(["flow", str(made), "--out", str(tmp_path / "flow")]) == 0
    assert (tmp_path / "flow" / "flow.html").exists()


def test_captions_of_clips_are_learned(clips, tmp_path):
    made = run(clips[0], tmp_path, epochs=14, learning_rate=0.02)
    found = metrics(made)
    assert found["structure"] == "encoder-decoder"
    assert found["test"]["exact"] == 1.0
    assert "it goes" in (made / "report.html").read_text()
    network = recur.load(made)
    frames = np.stack([square(place, "bright", 77) for place in ("left", "left", "right")])
    answers = network.predict([tmp_path / "clips" / "0", frames])
    assert [one.caption for one in answers] == ["it goes left", "it goes right"]
    assert main(["flow", str(made), "--data", str(clips[0]), "--out", str(tmp_path / "flow")]) == 0


def test_frames_are_labelled(clips, tmp_path, capsys):
    made = run(clips[1], tmp_path, epochs=8, learning_rate=0.02, structure="aligned", baselines=True, cell="gru")
    found = metrics(made)
    assert found["test"]["accuracy"] == 1.0
    assert found["test"]["whole"] == 1.0
    assert found["baselines"]["linear"]["accuracy"] == 1.0
    assert 0.3 < found["baselines"]["frequent"]["accuracy"] < 0.8
    assert (
        found["rows"]["test"]
        == sum(3 + number // 2 % 2 for number in range(40)) - found["rows"]["train"] - (found["rows"]["validation"])
    )
    answer = recur.load(made).predict([tmp_path / "clips" / "3"])[0]
    assert answer.labels == ["left", "left", "right", "right"]
    assert min(answer.probabilities) > 0.5
    capsys.readouterr()
    assert main(["predict", str(made), str(tmp_path / "clips" / "3")]) == 0
    assert capsys.readouterr().out.startswith("left left right right\t")
    assert main(["evaluate", str(made), str(clips[1])]) == 0
    assert "(all frames right, 40 clips)" in capsys.readouterr().out
    assert main(["flow", str(made), "--out", str(tmp_path / "flow")]) == 0


def test_several_captions_of_a_picture_stay_together(images, tmp_path):
    rows = [line.split(",") for line in images.read_text().splitlines()[1:]]
    doubled = [pair for path, text in rows for pair in ((path, text), (path, f"see: {text}!"))]
    both = table(tmp_path / "both.csv", doubled)
    made = run(both, tmp_path, attention="none", baselines=True, size="4x8", colours="colour", cell="rnn,gru")
    found = metrics(made / "gru-1")
    assert found["rows"] == {"train": 58, "validation": 6, "test": 16}
    assert found["test"]["references"] == 2
    assert found["baselines"]["nearest"]["cider"] > 4
    assert found["form"] == {"colours": 3, "height": 4, "width": 8}
    page = (made / "report.html").read_text()
    assert "test CIDEr-D" in page
    assert "Where each word looked" not in page
    assert recur.load(made).predict([square("left", "bright", 1, 30, 50)[..., None].repeat(3, 2)[:4, :8]])


def test_a_network_begins_with_the_vision_of_another_run(images, clips, tmp_path):
    first = run(images, tmp_path)
    # steps so small that nothing moves
    made = run(clips[0], tmp_path, vision=str(first), learning_rate=1e-12, out=tmp_path / "second")
    weights = [recur.load(one).model.state_dict()["vision.blocks.1.0.weight"] for one in (first, made)]
    torch.testing.assert_close(*weights)
    with pytest.raises(InputError, match=r"must be a run with 1 colours and --channels 3, got one with .* 4,6; make"):
        run(clips[0], tmp_path, vision=str(first), channels=(3,), out=tmp_path / "third")


@pytest.mark.parametrize("structure", ["one-to-many", "encoder-decoder", "aligned"])
def test_a_resumed_run_is_the_same_to_the_bit(structure, images, clips, tmp_path):
    source = {"one-to-many": images, "encoder-decoder": clips[0], "aligned": clips[1]}[structure]
    changes = {"epochs": 2, "dropout": 0.3, "shift": 1, "rotate": 5.0, "zoom": 0.1, "average": 0.9}
    options = SMALL | changes | {"train": source, "structure": structure}
    whole = train_run(CAPTION, CaptionOptions(**options, out=tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train_run(CAPTION, CaptionOptions(**options, out=tmp_path / "cut"), StopsAfter(5))
    train_run(CAPTION, CaptionOptions(train=source, out=tmp_path / "cut", resume=True))
    first, second = (recur.load(made).model.state_dict() for made in (whole, tmp_path / "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_nothing_of_the_test_part_is_learned_from(images, tmp_path):
    test = table(tmp_path / "test.csv", [("pictures/0.png", "zebra"), ("white.png", "another zebra")])
    save(tmp_path / "white.png", np.full((8, 12), 255, np.uint8))
    made = run(images, tmp_path, test=test, validation=test)
    config = json.loads((made / "config.json").read_text())
    assert "zebra" not in config["words"]
    notes = " ".join(metrics(made)["notes"])
    assert "1 validation pictures are in the training part too" in notes
    assert "2 test pictures are in the training file too" in notes
    mean = recur.load(made).model.vision.mean
    pixels = np.stack([np.asarray(Image.open(file)) for file in (tmp_path / "pictures").iterdir()])
    torch.testing.assert_close(float(mean), float(pixels.mean()), atol=1e-3, rtol=0)


def test_bad_rows_and_pictures_are_named(images, clips, tmp_path):
    def refused(text, source=images, **options):
        with pytest.raises(InputError, match=text):
            run(source, tmp_path, overwrite=True, **options)

    def bad(*row, source=images):
        return table(tmp_path / "bad.csv", [*(line.split(",") for line in source.read_text().splitlines()[1:]), row])

    refused(r"bad.csv, line 82: there is no file .*gone.png.*; paths are relative to", bad("gone.png", "dark"))
    refused(r"bad.csv, line 82: expected a value as 'text', found none", bad("pictures/0.png", " "))
    refused(r"0.png must have a caption with words, found none", bad("pictures/0.png", "<br>"), lowercase=False)
    refused(r"line 82: expected an image, found .*clips/0, a folder", bad("clips/0", "dark"))
    refused(r"line 42: expected a folder of frames, found the file", bad("pictures/0.png", "it", source=clips[0]))
    (tmp_path / "nothing").mkdir()
    refused(r"line 42: .*nothing must hold frames, .*found none", bad("nothing", "it", source=clips[0]))
    refused(
        r"line 42: expected a label for each of the 3 frames of .*more, found 2",
        more_labels(clips[1], tmp_path),
        structure="aligned",
    )
    (tmp_path / "text.png").write_text("no picture")
    refused(r"text.png must be a picture, such as PNG or JPEG, found something else", bad("text.png", "dark"))
    save(tmp_path / "large.png", np.zeros((9, 12), np.uint8))
    refused(r"large.png must have 8x12 pixels, height x width, .*got 9x12; .*--size 8x12", bad("large.png", "dark"))
    test = table(tmp_path / "test.csv", [("large.png", "dark")])
    refused(r"large.png must have 8x12 pixels, .*as the first training picture, got 9x12", test=test)
    save(tmp_path / "deep.png", np.zeros((8, 12), np.uint16))
    refused(r"deep.png must have 8 bits a colour, found the mode I", bad("deep.png", "dark"))
    cut = tmp_path / "cut.png"
    cut.write_bytes(save(tmp_path / "noise.png", square("left", "dark", 1, 200, 300)).read_bytes()[:3000])
    refused(r"cut.png is a damaged picture", bad("cut.png", "dark"), size="8x12")
    refused("--size must be height x width in pixels, such as 32x48, got 'big'", size="big")
    refused("a picture must be more than 16 pixels high or wide for 4 blocks, got 8 x 12", channels=(2, 2, 2, 2))
    refused("--input-feeding needs attention, got --attention none", input_feeding=True, attention="none")
    refused("there is no column 'photo'; the columns are image, text", image="photo")
    skipped = run(bad("gone.png", "dark"), tmp_path, overwrite=True, skip_bad_rows=True)
    assert "1 bad rows of" in metrics(skipped)["notes"][0]
    network = recur.load(skipped)
    with pytest.raises(InputError, match="several pictures"):
        network.predict("a.png")
    with pytest.raises(InputError, match="0 must be an image for this network, got a folder"):
        network.predict([tmp_path / "clips" / "0"])
    with pytest.raises(InputError, match=r"pixels must be uint8 \[8, 12\], got float64 \[8, 12\]"):
        network.predict([np.zeros((8, 12))])


def more_labels(labels, tmp_path):
    """The table of labels with a clip more, of three frames with two labels."""
    for frame in range(3):
        save(tmp_path / "clips" / "more" / f"{frame}.png", square("left", "dark", frame))
    rows = [line.split(",") for line in labels.read_text().splitlines()[1:]]
    return table(tmp_path / "more.csv", [*rows, ("clips/more", "left right")])


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"Reading pictures needs the package pillow: pip install 'recur\[image\]'"):
        picture_form(path)


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("frame10.png", "frame9.png", "frame1.PNG"):
        save(tmp_path / name, np.zeros((2, 2), np.uint8))
    (tmp_path / "notes.txt").write_text("no frame")
    assert [file.name for file in frame_files(tmp_path)] == ["frame1.PNG", "frame9.png", "frame10.png"]


def test_pixels_are_read_in_the_colours_asked_for(tmp_path):
    pixels = np.zeros((3, 4, 3), np.uint8)
    pixels[..., 0] = 200
    path = save(tmp_path / "red.png", pixels)
    assert read_picture(path, PictureForm(3, 3, 4))[:, 1, 1].tolist() == [200, 0, 0]
    assert read_picture(path, PictureForm(1, 3, 4))[0, 1, 1] == 60  # 0.299 of red
    assert read_picture(path, PictureForm(1, 6, 2), resize=True).shape == (1, 6, 2)


def test_many_pixels_go_to_a_file_and_come_back(tmp_path, monkeypatch):
    rows = [np.random.default_rng(n).integers(0, 256, (n % 3 + 1, 1, 4, 5), dtype=np.uint8) for n in range(20)]
    form = PictureForm(1, 4, 5)
    held = Clips.of(rows, form)
    monkeypatch.setattr("recur.data.pictures.IN_MEMORY", 100)
    filed = Clips.of(rows, form, tmp_path)
    assert filed._mapped is not None
    assert np.array_equal(held.values, filed.values)
    assert np.array_equal(held.values, np.concatenate(list(filed.parts(7))))
    laid, lengths = filed.padded(np.array([2, 0]))
    assert lengths.tolist() == [3, 1]
    assert np.array_equal(laid[0], rows[2])
    assert not laid[1, 1:].any()
    targets = Sequences.of([[n + 1] * (n % 4) for n in range(30)])
    batches = ClipBatches(filed, targets, np.arange(30) % 20, batch_size=7, seed=1)
    seen = list(batches)
    assert sorted(torch.cat([batch.index for batch in seen]).tolist()) == list(range(30))
    for batch in seen:
        for row, number in enumerate(batch.index.tolist()):
            assert np.array_equal(batch.pictures[row, : batch.lengths[row]].numpy(), rows[number % 20])


def test_an_affine_map_moves_all_frames_of_a_clip_alike():
    pictures = torch.zeros(40, 2, 1, 9, 11, dtype=torch.uint8)
    pictures[..., 4, 5] = 255
    assert Affine()(pictures) is pictures
    same = Affine(zoom=1e-9)(pictures)
    torch.testing.assert_close(same, pictures.float(), atol=1e-3, rtol=0)
    torch.manual_seed(1)
    moved = Affine(shift=3)(pictures)
    assert torch.equal(moved[:, 0], moved[:, 1])
    rows, columns = torch.arange(9.0), torch.arange(11.0)
    weight = moved[:, 0, 0] / moved[:, 0, 0].sum((1, 2), keepdim=True)
    down, right = (weight.sum(2) * rows).sum(1) - 4, (weight.sum(1) * columns).sum(1) - 5
    assert 2.5 < down.abs().max() <= 3.001
    assert 2.5 < right.abs().max() <= 3.001
    # a bar of one length whichever way it is turned
    bars = torch.zeros(8, 1, 1, 41, 81)
    bars[..., 20, 22:59] = 255.0
    heights = []
    for turned in Affine(rotate=90)(bars)[:, 0, 0]:
        places = (turned > 90).nonzero().double()
        assert abs(float((places[-1] - places[0]).norm()) - 36) < 4
        heights.append(float(places[:, 0].max() - places[:, 0].min()))
    assert max(heights) > 25
    assert min(heights) < 20


def test_padding_behind_a_clip_never_matters():
    sizes = {"height": 8, "width": 8, "channels": (3,), "embedding_size": 5, "hidden_size": 4}
    model = FrameLabeller(FrameLabellerConfig(labels=2, **sizes)).eval()
    frames, lengths = torch.randint(256, (2, 5, 1, 8, 8), dtype=torch.uint8), torch.tensor([5, 3])
    changed = frames.clone()
    changed[1, 3:] = 7
    torch.testing.assert_close(model(frames, lengths)[1, :3], model(changed, lengths)[1, :3])
    # nor in training, where the means of the normalisation are those of a batch
    torch.testing.assert_close(model.train()(frames, lengths)[1, :3], model(changed, lengths)[1, :3])
    captioner = Captioner(CaptionerConfig(vocabulary_size=6, structure="encoder-decoder", **sizes)).eval()
    words, many = torch.tensor([[2, 4], [2, 5]]), torch.tensor([2, 2])
    torch.testing.assert_close(captioner(frames, lengths, words, many), captioner(changed, lengths, words, many))


def test_attention_weights_are_shares_of_the_places_of_a_picture():
    model = Captioner(CaptionerConfig(vocabulary_size=6, height=16, width=8, channels=(3, 4), embedding_size=5))
    images, ones = torch.randint(256, (2, 1, 1, 16, 8), dtype=torch.uint8), torch.ones(2, dtype=torch.int64)
    words = torch.tensor([[2, 4, 5], [2, 5, 0]])
    weights = model.attention_weights(images, ones, words, torch.tensor([3, 2]))
    assert weights.shape == (2, 3, 4 * 2)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))


@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 5), (1, 9)])
def test_vision_sees_pictures_to_their_edge(height, width):
    vision = Vision(1, height, width, [2, 3], 5).eval()
    pixels = torch.full((1, 1, height, width), 100.0, requires_grad=True)
    seen = vision(pixels)
    assert seen.shape == (1, 3, -(-height // 4), -(-width // 4))
    assert vision.vectors(seen).shape == (1, 5)


def test_vision_takes_mean_and_deviation_from_what_it_is_fitted_to():
    vision = Vision(3, 8, 8, [4], 5)
    pixels = torch.randint(256, (1500, 3, 8, 8), dtype=torch.uint8)
    vision.fit(pixels.split(700))
    values = pixels.double()
    torch.testing.assert_close(vision.mean.flatten().double(), values.mean((0, 2, 3)))
    torch.testing.assert_close(vision.deviation.flatten().double(), values.std((0, 2, 3), unbiased=False))


def test_vision_is_normalised_by_the_means_of_many_batches():
    vision = Vision(1, 8, 8, [4], 5)
    convolution, pool, norm, _ = vision.blocks[0]
    batches = [torch.rand(6, 1, 8, 8) * 40 * (number + 1) for number in range(5)]
    for pixels in batches:
        vision(pixels)
    means = torch.stack([pool(convolution(pixels)).mean((0, 2, 3)) for pixels in batches])
    torch.testing.assert_close(norm.running_mean, means.mean(0))
    for _ in range(300):
        vision(batches[0])
    assert norm.momentum == 0.01
    torch.testing.assert_close(norm.running_mean, means[0], rtol=0.2, atol=0.2)


def test_cider_is_what_the_formula_gives_by_hand():
    # two pictures; "a" is in both references: weight 0; "b" and "c" in one: log 2
    weight = math.log(2)
    references = [["a", "b"]], [["a", "c", "c"]]
    found = cider([["a", "b"], ["c", "b"]], references)
    # the first: order 1 has b alone, order 2 has a b; both cosines 1, orders 3 and 4 are empty
    assert found[0] == pytest.approx(10 * 2 / 4)
    # the second: c counts min(1, 2) of 2, norms sqrt(2) and 2; "c b" and "a c", "c c" share nothing; one word shorter
    cosine = weight * 2 * weight / (math.sqrt(2) * weight * 2 * weight)
    assert found[1] == pytest.approx(10 * cosine / 4 * math.exp(-1 / 72))


def test_cider_of_several_references_is_their_mean_and_counts_pictures_not_references():
    references = [[["x", "y"], ["x", "z"]], [["w"]], [["v"]]]
    alone = [cider([["x", "y"], ["q"], ["q"]], [[one], *references[1:]])[0] for one in references[0]]
    both = cider([["x", "y"], ["q"], ["q"]], references)[0]
    # x is in one picture of three whichever of its references holds it
    assert both == pytest.approx(sum(alone) / 2)
    assert alone[0] == pytest.approx(5.0)
    assert alone[1] == pytest.approx(10 * 0.5 / 4)
    with pytest.raises(InputError, match="one for each of the 2 pictures with references, got 1"):
        cider([["x"]], [[["x"]], [["y"]]])


def test_bleu_takes_the_nearest_of_several_references():
    texts = ["the cat sat on the mat", "a dog"]
    several = [["no", "the cat sat on the mat"], ["a dog"]]
    assert bleu(texts, several).bleu == pytest.approx(bleu(texts, texts).bleu)
    assert "nrefs:var" in bleu(texts, several).signature
    assert bleu(texts, [[one] for one in texts]).interval == bleu(texts, texts).interval


def test_resampled_intervals_hold_the_share_and_are_as_wide_as_they_should_be():
    right = (np.arange(400) < 320).astype(float)
    low, high = resampled(right)
    assert low < 0.8 < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.8 * 0.2 / 400), rel=0.15)
    # rows of three: the same share, a third of the independent rows
    threes = resampled(right.reshape(-1, 4).sum(1), np.full(100, 4.0))
    assert threes[1] - threes[0] > 1.7 * (high - low)


def script():
    spec = importlib.util.spec_from_file_location("digit_pictures", ROOT / "examples" / "digit_pictures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["digit_pictures"] = module
    spec.loader.exec_module(module)
    return module


def test_digit_pictures_say_what_they_show(tmp_path):
    made = script()
    picture = np.zeros((10, 28, 28), np.uint8)
    for digit in range(10):
        picture[digit, 8:20, 10 : 14 + digit % 3] = 20 * (digit + 1)
    digits = made.Digits(picture, np.arange(10, dtype=np.uint8))
    values = {20 * (number + 1): word for number, word in enumerate(made.WORDS)}
    for kind, count in (("images", 1), ("clips", 8), ("stills", 1), ("labels", 10)):
        made.write_part(tmp_path / kind, "train", kind, digits, 20, np.random.default_rng(1))
        with open(tmp_path / kind / "train.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 20
        for row in rows:
            files = frame_files(tmp_path / kind / row["image"])
            frames = np.stack([np.asarray(Image.open(file)) for file in files])
            assert len(frames) == count
            if kind == "images":
                lit = [column[column > 0][0] for column in frames[0].T if column.any()]
                shown = [values[v] for v, before in zip(lit, [0, *lit], strict=False) if v != before]
                # of two equal neighbours one is seen here
                words = row["text"].split()
                assert shown == [w for w, before in zip(words, ["", *words], strict=False) if w != before]
            elif kind == "stills":
                seen = [(np.argwhere(frames[0] == v)[:, 1].min(), word) for v, word in values.items() if v in frames[0]]
                if len(seen) == len(row["text"].split()):
                    assert " ".join(word for _, word in sorted(seen)) == row["text"]
            elif kind == "labels":
                said = row["text"].split()
                assert [not frame.any() for frame in frames] == [label == "blank" for label in said]
                places = [np.argwhere(frame).min(0) if frame.any() else None for frame in frames]
                for t in range(1, count):
                    if said[t] != "blank" and said[t - 1] != "blank":
                        step = (places[t] - places[t - 1]).tolist()
                        assert step == [made.WALK_STEP * part for part in made.MOVES[said[t]]]
            else:
                for part in row["text"].split(" and "):
                    _, word, _, way = part.split()
                    here = [np.argwhere(frame == 20 * (made.WORDS.index(word) + 1)) for frame in frames]
                    if row["text"].count(word) == 1:
                        moved = (here[-1].min(0) - here[0].min(0)).tolist()
                        assert moved == [7 * made.CLIP_STEP * step for step in made.MOVES[way]]
