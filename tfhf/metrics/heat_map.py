"""A table drawn as a picture: coloured cells with numbers and names, in NumPy alone."""

import numpy as np

# The printable ASCII characters from space on, five columns of dots each, the lowest bit at the top: the letter forms
# of dot-matrix displays. Names in other scripts are drawn as boxes.
_FONT = np.frombuffer(bytes.fromhex(
    "000000000000005f00000007000700147f147f14242a7f2a12231308646236495620500008070300001c2241000041221c00"
    "2a1c7f1c2a08083e08080080703000080808080800006060002010080402" "3e5149453e00427f40007249494946"
    "2141494d331814127f1027454545393c4a49493141211109073649494936464949291e"
    "0000140000004034000000081422411414141414004122140802015909063e415d594e"
    "7c1211127c7f494949363e414141227f4141413e7f494949417f090909013e415151727f0808087f00417f4100"
    "2040413f017f081422417f404040407f021c027f7f0408107f3e4141413e7f090909063e4151215e7f09192946"
    "264949493201017f01013f4040403f1f2040201f3f4038403f63140814630304780403615149454300"
    "7f414141020408102000" "4141417f0402010204" "4040404040" "0003070800"
    "20545478407f284444383844444428384444287f385454541800087e090218a4a49c787f0804047800447d40002040403d00"
    "7f1028440000417f40007c047804787c080404783844444438fc1824241818242418fc7c0804040848545454240404"
    "3f44243c4040207c1c2040201c3c4030403c44281028444c9090907c4464544c44"
    "0008364100000077000000413608000201020402"), np.uint8)
_DARK = np.array([8, 48, 107])   # of a share of 1; 0 is white


def draw_text(text, scale=1):
    """The text as dots: bool [8 * scale, 6 * scale * characters], the last row and column of each character free."""
    dots = np.zeros([8, 6 * len(text)], bool)
    for place, character in enumerate(text):
        number = ord(character) - 32
        columns = _FONT[5 * number:5 * number + 5] if 0 <= number < 95 else np.array([127, 65, 65, 65, 127], np.uint8)
        dots[:, 6 * place:6 * place + 5] = np.unpackbits(columns[None], axis=0, bitorder="little")
    return dots.repeat(scale, axis=0).repeat(scale, axis=1)


def heat_map(shares, numbers, names, title):
    """A square table as a picture.

    Args:
        shares: [n, n] in [0, 1], the cells' colours.
        numbers: [n, n], what is written in the cells.
        names: n names of rows and columns.
        title: a line above the table.

    Returns:
        uint8 [height, width, 3].
    """
    scale = 2 if len(names) <= 32 else 1   # of 107 languages the picture would be 5,000 dots wide
    widest = max(len(str(text)) for text in [*names, *(number for row in numbers for number in row)])
    cell, high, left = (6 * widest + 6) * scale, 14 * scale, (6 * max(map(len, names)) + 6) * scale
    top = 2 * high
    picture = np.full([top + high * len(names), max(left + cell * len(names), (6 * len(title) + 6) * scale), 3], 255,
                      np.uint8)

    def write(text, row, column, width, colour):
        dots = draw_text(str(text), scale)
        row, column = row + 3 * scale, column + (width - dots.shape[1] + scale) // 2
        picture[row:row + dots.shape[0], column:column + dots.shape[1]][dots] = colour

    write(title, 0, 0, (6 * len(title) + 6) * scale, 0)
    for place, name in enumerate(names):
        write(name, high, left + place * cell, cell, 0)
        write(name, top + place * high, 0, left, 0)
        for other in range(len(names)):
            row, column, share = top + place * high, left + other * cell, shares[place][other]
            box = picture[row:row + high, column:column + cell]
            box[:] = np.rint(255 + share * (_DARK - 255))
            box[0] = box[:, 0] = 210   # a grey line, or white cells had no edge
            write(numbers[place][other], row, column, cell, 255 if share > 0.5 else 0)
    return picture
