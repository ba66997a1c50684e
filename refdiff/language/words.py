"""The words that mean something to refdiff: the one table to read and to extend.

A word stands in one role. What stands nowhere is a noun, an adjective or a verb, as the tagger
says, and goes to the model as it is.
"""

from __future__ import annotations

_NUMBERS = "one two three four five six seven eight nine ten eleven twelve"
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"

# role -> value -> words
TABLES: dict[str, dict[str, str]] = {
    "side": {
        "left": "left leftmost lefthand lefter leftest",
        "right": "right rightmost righthand righter rightest",
        "top": "top topmost upper uppermost higher highest",
        "bottom": "bottom bottommost lower lowermost lowest",
        "middle": "middle center centre central mid middlemost centermost centered",
    },
    "size": {
        "big": "big bigger biggest large larger largest huge giant enormous gigantic massive",
        "small": "small smaller smallest little littler littlest tiny tinier tiniest",
        "tall": "tall taller tallest",
        "short": "short shorter shortest",
        "wide": "wide wider widest broad broadest fat fatter fattest thick thicker thickest",
        "narrow": "narrow narrower narrowest thin thinner thinnest slim slimmest skinny skinnier "
        "skinniest slimmer",
        "long": "long longer longest",
    },
    "depth": {
        "in front of": "front frontmost foreground closest nearest closer nearer",
        "behind": "back background rear backmost farthest furthest farther further distant "
        "distance",
    },
    "order": {str(rank): word for rank, word in enumerate(_ORDINALS.split(), 1)} | {"-1": "last"},
    "number": {str(n): word for n, word in enumerate(_NUMBERS.split(), 1)}
    | {"2": "two both", "12": "twelve dozen"},
    "all": {"": "all every each several many some few various most everything everyone everybody"},
    "measure": {
        "all": "group bunch crowd herd flock row pile set stack lot lots number line collection",
        "2": "pair couple",
        "1": "piece slice kind type sort bit",
    },
    "colour": {
        "": "red green blue yellow purple white black orange pink brown grey gray violet cyan "
        "magenta turquoise teal beige golden silver maroon navy tan lime crimson scarlet indigo "
        "reddish greenish bluish yellowish whitish blackish pinkish brownish greyish grayish "
        "multicolored multicoloured colorful colourful",
    },
    "null": {
        "": "picture image photo photograph pic frame scene side sides part half section region "
        "area view shot camera viewer portion quarter",
        "spot": "corner edge end row column quadrant screen",
    },
    "det": {
        "": "the a an this that these those my your his her its our their any no either such teh",
    },
    "aside": {
        "": "not n't never neither nor other others another only same single own up down together "
        "away"
    },
    "quality": {
        "": "masterpiece quality best ultra highly highres absurdres detailed intricate realistic "
        "photorealistic hyperrealistic highquality highlydetailed ultradetailed uhd hd hdr "
        "4k 8k 16k solo bokeh cinematic artstation octane trending unreal photoreal photorealism "
        "dslr lowres nsfw sfw aesthetic outdoors indoors hyperdetailed volumetric sharp-focus"
    },
    "intensity": {
        "": "very far most more extreme extremely really quite way much so too just please thanks "
        "slightly somewhat directly immediately rather pretty fairly almost completely totally "
        "super already currently still thank thanks"
    },
}

# kind -> links, longest first where they compete. "of", "from", "to" and "at" need their sequel.
LINKS: dict[str, str] = {
    "near": "next to, near to, close to, closer to, closest to, nearest to, nearest the, beside, "
    "besides, near, by, nearby, alongside, adjacent to, around, against, along, at, nearest, "
    "closest, toward, towards, with back to, across from, opposite, opposite of, to the side of, "
    "at the side of, by the side of, touching",
    "far from": "far from, away from, far away from, farthest from, furthest from, farther from, "
    "further from, farthest away from, furthest away from, farther away from, further away from",
    "in front of": "in front of, in the front of, ahead of, before",
    "behind": "behind, in back of, in the back of, at the back of, behind of",
    "above": "above, over, higher than",
    "below": "below, under, underneath, beneath, lower than",
    "on": "on top of, on, upon, onto, atop, riding on, riding, standing on, sitting on, across",
    "in": "in, inside, inside of, within, into, through",
    "between": "between, in between, among, amongst, amid",
    "with": "with, wearing, holding, carrying, having, has, have, containing, including, "
    "sporting, wears, holds, carries, whose",
    "other": "without, except, except for, than, like, for, off, off of, out of, about, as, "
    "during, after, until",
    "of": "of",
    "from": "from, counting from, counted from, starting from",
    "to": "to",
    "and": "and, &, plus, or, as well as, and also, along with, together with",
    "clause": "that, which, who, whom, where, is, are, was, were, be, been, being, am, "
    "does, do, did, there, when, while, because",
    ",": "(, ), -, --, ;, :, ., !, ?, /, |, but",
}
SEPARATORS = (",", ".", ";", "/", "|")  # which make a list of bare nouns

# What one says when asking for something; none of it is looked for.
COMMANDS = (
    "find select segment locate detect identify highlight choose show extract remove isolate "
    "erase delete get give see want need look looking searching search pick focus click"
)
LEAD = (
    "please can could would will you i we me us 'd 'm 'll 's let like there here is are was were "
    "it what where which who whose how hey ok okay hi hello now do does try help just ' : , - out"
)
LEAD_PAIRS = frozenset(
    "look at,look for,looking for,looking at,search for,searching for,point to,point at,click on,"
    "focus on,want to,need to,like to,pick out,cut out,this is,that is,this 's,that 's,these are,"
    "those are,get rid,take out,take away,crop out,have to,going to,go to,zoom in,zoom on".split(
        ","
    )
)
CHANGES = frozenset(  # requests that say what shall be there afterwards
    "change turn make paint color colour recolor recolour dye set transform convert swap replace "
    "modify adjust alter edit repaint fill".split()
)
ADDITIONS = frozenset("add put place draw stick attach insert".split())
REQUESTS = (
    CHANGES
    | ADDITIONS
    | frozenset(
        "blur crop mask inpaint outpaint hide keep cut copy move outline mark label count tag "
        "circle take use erase clear brighten darken sharpen grab box trace lasso separate".split()
    )
)
ASPECTS = frozenset(
    "color colour style look texture material shape size background hue tone appearance".split()
)

EXCEPT = (
    "except for, except, excluding, minus, apart from, aside from, other than, but not, "
    "not including, and not, rather than, instead of, ignoring, besides, leaving out, "
    "save for, excepting, but no"
)
WITHOUT = (
    "without, w/o, with no, with out, lacking, missing, has no, have no, having no, "
    "wearing no, holding no, carrying no, with none of, with neither, with nothing on"
)
DENIALS = ("not", "n't", "never", "neither")
WHOLE = frozenset(  # what "but" may follow: "everything but the dog"
    "all everything everyone everybody anything anyone anybody nothing every any each any whole "
    "everythin nobody none".split()
)
ANYTHING = frozenset(  # words that name no kind of thing
    "one ones everything anything something all thing things object objects item items that this "
    "these those it who what which element elements any each both".split()
)
THINGS = frozenset("thing things object objects item items".split())  # any, but looked for as said

PEOPLE = frozenset(
    "man woman men women guy girl boy kid person people lady ladies dude child children player "
    "baby toddler batter catcher umpire pitcher skier surfer rider driver bride groom girls boys "
    "guys kids persons dudes players adult adults male female gentleman chef skateboarder fan "
    "coach teen teenager chick gal snowboarder cyclist biker goalie waiter waitress officer cop "
    "police soldier dad mom mother father son daughter brother sister couple family someone "
    "somebody spectator runner 1girl 1boy hitter referee ref actor actress fellow bloke".split()
)
CLOTHES = frozenset(
    "shirt t-shirt tshirt hat cap dress coat jacket suit pants jeans shorts skirt sweater hoodie "
    "shoe boot glass sunglasses tie scarf uniform vest top helmet costume outfit glove apron robe "
    "sneaker sandal sock belt blouse cardigan jersey polo tuxedo gown bikini swimsuit trunks "
    "wetsuit kimono sari turban beanie headband bandana visor goggles mask necklace bracelet "
    "earring watch backpack shirt tee tank sweatshirt leggings overalls bowtie ribbon hood "
    "glasses gloves shoes boots sneakers sandals socks stripes plaid khakis trousers sleeves "
    "bottoms clothes clothing".split()
)
PARTS = frozenset(  # of people, animals and things: told of them, or asked for by "of"
    "hair head face eye ear nose mouth neck arm hand finger leg foot knee tail wing beak paw horn "
    "mane trunk tusk fur beard mustache moustache ponytail bangs freckles lip tooth skin chest "
    "shoulder stomach belly back nail eyebrow braid bun antler hoof fin feather snout whisker "
    "spot stripe handle lid wheel door window sleeve collar brim rim stem leaf petal".split()
)
ENDS = frozenset(  # parts that other things have, asked for by "of": "roof of the house"
    "back front rear top bottom end edge tip inside outside side middle base body frame surface "
    "screen lens cap roof engine sail branch seat keyboard spout button pocket knob drawer shelf "
    "bumper windshield windscreen headlight taillight mirror fender tire tyre pedal saddle chimney "
    "balcony hull deck mast blade cord crust topping shell claw thumb toe heel ankle wrist elbow "
    "forehead cheek chin jaw throat hip thigh palm paw nostril eyelash antenna bell cockpit wall "
    "floor ceiling step railing steering strap buckle zipper sole lace crown bark root".split()
)
ED_NOUNS = frozenset(  # "long-sleeved", "left handed": the noun before "-ed"
    "sleeve hand leg ear eye hair tail brim frame neck tone wheel side face foot stem handle color "
    "colour body wing beak rim finger arm nose tooth mouth head horn heart sole heel "
    "waist shoulder chest bottom top lip bill bristle fur leaf petal bearded story "
    "storey tier level engine door mast blade point corner spoke collar haired legged cut length "
    "shelled skinned coat feather breast belly back".split()
)
PAIRS = frozenset(
    "glasses sunglasses jeans pants shorts trousers scissors tongs binoculars goggles leggings "
    "pajamas pyjamas overalls tights pliers tweezers headphones slacks khakis".split()
)
# Two words that are one thing, though the first (or second) elsewhere means a place or a size.
COMPOUNDS = frozenset(
    "tank top,crop top,tube top,halter top,bikini top,pajama top,pyjama top,table top,counter top,"
    "stove top,roof top,tree top,hill top,mountain top,bench top,desk top,track top,top hat,"
    "bell bottom,bikini bottom,bikini bottoms,pajama bottoms,pyjama bottoms,swim bottoms,"
    "side table,side dish,side plate,side mirror,side salad,side car,side walk,side board,"
    "side street,side door,side view,side wall,end table,end zone,center piece,centre piece,"
    "corner table,corner store,corner shelf,high chair,long board,long horn,long boat,long johns,"
    "long jump,short cake,short bread,short stop,short rib,big rig,big ben,big top,big wheel,"
    "big toe,big screen,little league,little toe,giant panda,giant slalom,great dane,"
    "wide receiver,thick crust,thin crust,left field,right field,center field,left fielder,"
    "right fielder,center fielder,left winger,right winger,left turn,right turn,left arrow,"
    "right arrow,top coat,top gun,top bun,lower case,upper case,upper deck,lower deck,"
    "middle finger,middle school,middle ages,center console,center court,coffee table,"
    "front door,front yard,front porch,front desk,front page,back door,back yard,back pack,"
    "back pocket,back board,back porch,back splash,rear view,rear mirror,set top,box set,"
    "picture frame,photo frame,photo album,picture book,camera bag,camera man,camera case,"
    "camera lens,screen door,screen saver,window frame,door frame,bed frame,bike frame,"
    "row boat,row house,line drive,line cook,piece set,group photo,area rug,stack heater,"
    "lime juice,orange juice,orange slice,lime slice,pink panther,black board,white board,"
    "black bird,blue bird,green house,red wine,white wine,second hand,second base,first base,"
    "third base,second baseman,third baseman,first baseman,first aid,last name,last supper,"
    "stop sign,fire hydrant,pizza slice,bread slice,cake slice,water bottle,wine bottle,"
    "lower jaw,upper lip,lower lip,upper arm,lower leg,upper body,lower body,single bed,"
    "double bed,twin bed,spot light,search icon".split(",")
)
# "-ing" words that make one thing with the noun behind them, after another noun too.
ING_COMPOUNDS = frozenset(
    "swimming pool,swimming trunks,sleeping bag,cutting board,chopping board,baking sheet,"
    "baking pan,baking dish,frying pan,dining table,dining room,dining chair,washing machine,"
    "living room,rolling pin,walking stick,fishing rod,fishing pole,fishing boat,running shoes,"
    "sewing machine,ironing board,boxing gloves,riding boots,shopping cart,shopping bag,"
    "mixing bowl,wedding cake,wedding dress,serving spoon,training wheels,racing bike,"
    "changing table,landing gear,rocking chair,folding chair,folding table,vending machine,"
    "batting helmet,batting glove,batting gloves,catching mitt,parking lot,parking meter,"
    "parking sign,building block,measuring cup,measuring spoon,serving tray,serving dish,"
    "skiing pole,ski pole,sailing boat,sailing ship,reading glasses,reading lamp,"
    "writing desk,wrapping paper,drinking glass,drinking fountain,watering can,racing car,"
    "crossing sign,crossing guard,changing room,waiting room,hearing aid,wading pool,"
    "knitting needle,filing cabinet,moving truck,moving van,steering wheel".split(",")
)
CAPTION = frozenset(  # words that only a caption or a list of tags has
    "1girl 1boy 2girls 2boys 1other watercolor illustration 3d render anime 35mm 50mm 85mm "
    "concept portrait closeup close-up sunlight lighting sketch style 2d wallpaper".split()
)
AFTER_NOUN = "empty full open closed shut asleep awake alone visible upright broken lit".split()
# "-ing" words that are things, and nouns that are actions behind another noun.
THINGS = frozenset(
    "building painting drawing carving etching engraving ceiling clothing railing crossing parking "
    "earring wedding wrapping topping filling icing frosting dressing pudding dumpling stuffing "
    "herring duckling starling sapling sibling being viking lightning lighting wiring bedding "
    "awning flooring roofing siding fencing tiling scaffolding seating marking covering lining "
    "meeting morning evening ring king string wing spring sling swing thing something anything "
    "everything nothing bling ping pong sing bring sterling darling inning opening landing "
    "seasoning writing handwriting lettering stocking offspring housing bearing plumbing".split()
)
ACTIONS = frozenset("run jump swim sleep eat sit crawl".split())
VIEWER = ("camera", "viewer", "us", "me")
