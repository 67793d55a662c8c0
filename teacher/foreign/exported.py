"""Exported networks as foreign models: programs of torch.export, and TorchScript archives.

Opening a file runs nothing that it brings. A program of torch.export is read as data, and its steps are run by our own
few lines (`program_file`, `program_run`); torch's own way to load it, which unpickles and evaluates, is not taken.
TorchScript can only be run by torch: it is searched first for what would run on reading, its pickles may name nothing
but tensors, plain values and its own classes, and its graph may have known operators only (`torchscript`). What remains
as a risk is a fault in torch's own operators, or in its reader of TorchScript, that a made-up file could exploit, and
that such a file asks for more memory or time than there is.
"""

from pathlib import Path

from storage.errors import CheckpointError, SettingsError
from storage.object_io import file_digest
from teacher.foreign.archive import Archive
from teacher.foreign.contract import ModelSettings
from teacher.foreign.file_model import FileModel, Run
from teacher.foreign.image_form import ImageForm, Side
from teacher.foreign.notes import PREFIX, Notes
from teacher.foreign.program_file import read_program
from teacher.foreign.program_run import ProgramRun
from teacher.foreign.torchscript import ScriptRun, open_script


def open_exported(path: Path, how: ModelSettings) -> FileModel:
    """Open a program of torch.export, or a TorchScript archive, as a foreign model.

    It takes one tensor, normalised images (batch, 3, height, width), and gives scores (batch, label, h, w). Of several
    outputs of a program it is the first of four axes; of TorchScript also one under "logits" or "out". What sizes a
    program of torch.export takes its file says: to a fixed size images are stretched, and where it takes multiples of a
    number, to the nearest of them, unless `how.native`. A TorchScript archive says nothing, and is given images of any
    size. Labels, mean and std are those of `how`, else of the notes that autocoarse writes, else unknown, and those of
    ImageNet.

    Args:
        path: the file, whatever its suffix.
        how: the precision bf16 or fp16 is that of convolutions and products, by autocast; of TorchScript it is fp32.

    Raises:
        MissingFileError: there is no such file.
        SettingsError: the labels that are asked for are not as many as its outputs, or the precision is not to be had.
        CheckpointError: it cannot be used; the message says why. Nothing was run of a file that is refused by its form.
    """
    archive = Archive(path)
    where = str(path)
    name, run, form, facts = _opened(archive, how)
    notes = {member.removeprefix("extra/"): archive.read_text(member) for member in archive.names(f"extra/{PREFIX}")}
    return FileModel(name, where, file_digest(path), run, form, Notes.from_texts(notes, where), how, facts)


def _opened(archive: Archive, how: ModelSettings) -> tuple[str, Run, ImageForm, dict[str, str]]:
    where = str(archive.path)
    if "constants.pkl" in archive:
        if how.precision != "fp32":
            raise SettingsError(
                f"{where}: precision is {how.precision}, and TorchScript takes no notice of it everywhere: leave it "
                f"out, or export the network by torch.export"
            )
        run = ScriptRun(open_script(archive, how.device), where, how.device)
        return "TorchScript", run, ImageForm(Side(), Side()), {}
    if archive.names("models/") or archive.names("data/aotinductor/"):
        program = read_program(archive)
        return "torch.export", ProgramRun(program, where, how.device, how.precision), program.form, program.facts
    if "data.pkl" in archive:
        raise CheckpointError(
            f"{where} holds weights or Python objects, as torch.save writes them, and no exported network: give a "
            f"checkpoint of autocoarse as it is, and export another network by torch.export.save"
        )
    if "serialized_exported_program.json" in archive:
        raise CheckpointError(
            f"{where} was exported by torch 2.8 or older, with pickles: export it by torch 2.9 or newer"
        )
    raise CheckpointError(f"{where} is no exported network: expected what torch.export.save or torch.jit.save wrote")
