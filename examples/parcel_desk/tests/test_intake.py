import io
import tarfile

from parcel_desk import documents, intake, labels


def test_manifest_lists_its_sheets(tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        sheet = tarfile.TarInfo("sheet-1.csv")
        sheet.size = 3
        archive.addfile(sheet, io.BytesIO(b"a,b"))
    assert intake.unpack_manifest(packed.getvalue(), tmp_path / "in") == ["sheet-1.csv"]


def test_document_is_read_as_scanned(tmp_path):
    (tmp_path / "customs.txt").write_bytes(b"paper")
    assert documents.read_document(tmp_path, "customs.txt") == b"paper"


def test_etag_changes_with_the_content():
    assert documents.etag(b"one") != documents.etag(b"two")


def test_label_names_the_city():
    assert labels.label_text("PD-1", "Cork") == "*** PD-1 ***\nCORK\n"
