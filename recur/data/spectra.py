"""From samples to frames of features: the logarithms of mel energies, or their cosine transform."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recur.errors import InputError

FEATURES = ["log-mel", "mfcc"]
# about the energy that rounding to 16 bits leaves in a channel: silence has no smaller one
FLOOR = 1e-8

Frame = NDArray[np.float32]


@dataclass(frozen=True)
class Spectra:
    """How samples become frames.

    Raises:
        InputError: a value out of its range, or more mel channels than the spectrum can fill.

    >>> Spectra(rate=8000)(np.zeros(800, np.float32)).shape
    (11, 40)
    """

    rate: int
    """Samples a second."""
    window_ms: float = 25.0
    """Width of a frame, milliseconds."""
    hop_ms: float = 10.0
    """From one frame to the next, milliseconds."""
    mels: int = 40
    """Mel channels from 0 to half the rate."""
    features: str = "log-mel"
    """"log-mel", or "mfcc" for their cosine transform."""
    coefficients: int = 13
    """Coefficients of the cosine transform that are kept, from the 0th on."""

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise InputError(f"features must be one of {', '.join(FEATURES)}, got {self.features!r}")
        if self.hop < 1 or self.window < 2:
            raise InputError(
                f"window_ms and hop_ms must be at least 2 samples and 1 sample at {self.rate} samples a second, got "
                f"{self.window_ms} and {self.hop_ms}"
            )
        if self.features == "mfcc" and not 1 <= self.coefficients <= self.mels:
            raise InputError(f"coefficients must be from 1 to {self.mels}, the mels, got {self.coefficients}")
        empty = int((self._bank.sum(0) == 0).sum())
        if empty:
            raise InputError(
                f"mels must be fewer, or window_ms longer: of {self.mels} mel channels {empty} lie between two "
                f"frequencies of a window of {self.window_ms} ms at {self.rate} samples a second"
            )

    @property
    def window(self) -> int:
        """Samples of a frame."""
        return round(self.rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return round(self.rate * self.hop_ms / 1000)

    @property
    def size(self) -> int:
        """D, features of a frame."""
        return self.mels if self.features == "log-mel" else self.coefficients

    @property
    def names(self) -> list[str]:
        """What each feature is: the middle of its mel channel, or the number of its coefficient."""
        if self.features == "mfcc":
            return [f"c{number}" for number in range(self.coefficients)]
        return [f"{hertz:.0f} Hz" for hertz in mel_edges(self.mels, self.rate)[1:-1].tolist()]

    def gain(self) -> Tensor:
        """Return what each feature [D] rises by where all energies grow by the factor e."""
        channels = torch.ones(self.mels)
        return channels @ self._cosines if self.features == "mfcc" else channels

    def __call__(self, samples: NDArray[np.float32]) -> Frame:
        """Return the frames [1 + n // hop, D] of samples [n], at least a window of them; frame t is about t * hop."""
        x = torch.from_numpy(np.ascontiguousarray(samples))
        spectrum = torch.stft(
            x, self._fft, self.hop, self.window, self._hann, pad_mode="constant", center=True, return_complex=True
        )
        energy = (spectrum.real**2 + spectrum.imag**2).T @ self._bank
        frames = energy.clamp(min=FLOOR).log()
        result: Frame = (frames @ self._cosines if self.features == "mfcc" else frames).numpy()
        return result

    @property
    def _fft(self) -> int:
        # padded to twice its width and more, so that narrow channels have frequencies of their own
        return 1 << self.window.bit_length() + 1

    @cached_property
    def _hann(self) -> Tensor:
        # the energy of a frame does not hang on its width
        window = torch.hann_window(self.window)
        return window / window.pow(2).sum().sqrt()

    @cached_property
    def _bank(self) -> Tensor:
        return mel_bank(self.mels, self.rate, self._fft)

    @cached_property
    def _cosines(self) -> Tensor:
        return cosine_transform(self.mels, self.coefficients)


def mel_edges(mels: int, rate: int) -> Tensor:
    """Return mels + 2 frequencies in Hz, at even distances in mel from 0 to half the rate.

    Source: mel = 2595 log10(1 + f / 700); Young et al., The HTK Book 3.4, equation 5.13.

    >>> mel_edges(1, 8000).round().tolist()
    [0.0, 1114.0, 4000.0]
    """
    top = 2595 * math.log10(1 + rate / 2 / 700)
    return 700 * (10 ** (torch.linspace(0, top, mels + 2, dtype=torch.float64) / 2595) - 1)


def mel_bank(mels: int, rate: int, fft: int) -> Tensor:
    """Return the weights [fft // 2 + 1, mels] of frequencies in mel channels.

    Channel m is a triangle that rises from edge m to 1 at edge m + 1 and falls to edge m + 2, see `mel_edges`.

    Source: Davis and Mermelstein 1980, IEEE Transactions on Acoustics, Speech and Signal Processing 28(4), figure 1.
    """
    edges = mel_edges(mels, rate)
    hertz = torch.linspace(0, rate / 2, fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def cosine_transform(mels: int, coefficients: int) -> Tensor:
    """Return the matrix [mels, coefficients] of the type II cosine transform: sqrt(2 / M) cos(pi k (m + 1/2) / M).

    Source: Young et al., The HTK Book 3.4, equation 5.14; k from 0 on, c0 being the mean energy times sqrt(2 M).
    """
    m = torch.arange(mels, dtype=torch.float64)[:, None] + 0.5
    k = torch.arange(coefficients, dtype=torch.float64)
    return (math.sqrt(2 / mels) * torch.cos(math.pi * k * m / mels)).float()
